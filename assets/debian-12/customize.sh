# Turns the installed packages into a cloud image. Runs inside the new tree, as its root.
# /tmp/efi holds, unpacked, the boot loader and the tools that make its partition; /esp.img comes out.
set -eux

root=LABEL=debian-12 # assemble.sh gives the file system this name
command_line="console=tty0 console=ttyS0,115200"

# What a cloud image knows about itself: next to nothing
echo debian > /etc/hostname
cat > /etc/hosts <<-END
	127.0.0.1 localhost
	127.0.1.1 debian
	::1 localhost ip6-localhost ip6-loopback
	END
cat > /etc/fstab <<-END
	$root / ext4 rw,discard,errors=remount-ro 0 1
	LABEL=EFI /boot/efi vfat umask=0077,noauto,x-systemd.automount 0 0
	END
mkdir -p /boot/efi
rm -f /etc/ssh/ssh_host_*
echo LANG=C.UTF-8 > /etc/default/locale

# Boot loader: shim and GRUB as Debian signed them, so that it also starts where Secure Boot is on
mkdir -p /etc/default/grub.d /boot/grub
cat > /etc/default/grub.d/serial.cfg <<-END
	GRUB_CMDLINE_LINUX_DEFAULT="$command_line"
	GRUB_TIMEOUT=0
	GRUB_TERMINAL=console
	END
cat > /boot/grub/grub.cfg <<-END
	# Until update-grub writes its own: the kernel that is installed, at once.
	linux /vmlinuz root=$root ro $command_line
	initrd /initrd.img
	boot
	END
cat > /tmp/grub.cfg <<-END
	search --no-floppy --label ${root#LABEL=} --set=root
	set prefix=(\$root)/boot/grub
	configfile \$prefix/grub.cfg
	END
efi=/tmp/efi
truncate --size=16M /esp.img
$efi/sbin/mkfs.vfat -n EFI /esp.img
$efi/usr/bin/mmd -i /esp.img ::EFI ::EFI/BOOT ::EFI/debian
put() { $efi/usr/bin/mcopy -i /esp.img "$1" "::EFI/$2"; }
put $efi/usr/lib/shim/shimx64.efi.signed BOOT/BOOTX64.EFI
put $efi/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed BOOT/grubx64.efi
put /tmp/grub.cfg debian/grub.cfg

# First boot
cat > /etc/cloud/cloud.cfg.d/90_pytest-kvm.cfg <<-END
	datasource_list: [NoCloud, None]
	locale: C.UTF-8
	# An RSA key takes some 10 s where every instruction is emulated
	ssh_genkeytypes: [ed25519, ecdsa]
	# There is no grub-pc to tell about its disk
	grub_dpkg: {enabled: false}
	# Nothing is written to the console once it has asked for a login
	ssh: {emit_keys_to_console: false}
	no_ssh_fingerprints: true
	END

# Network: cloud-init tells netplan, netplan tells networkd. No card, no waiting; no answer, no failure
systemctl enable systemd-networkd systemd-resolved
wait_online=/etc/systemd/system/systemd-networkd-wait-online.service.d
mkdir -p $wait_online
cat > $wait_online/short.conf <<-END
	[Unit]
	ConditionPathExistsGlob=/sys/class/net/e*
	[Service]
	ExecStart=
	ExecStart=-/lib/systemd/systemd-networkd-wait-online --any --timeout=15
	END

# Nothing that wakes up by itself in the middle of a test
systemctl disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \
    e2scrub_all.timer e2scrub_reap.service
