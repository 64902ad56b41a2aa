# Makes a disk of the new tree and its EFI partition, in the current directory, as root (of a user
# namespace, if need be): root.tar and esp.img become disk.raw, of as many MiB as the argument says.
# No loop device and no mount. The tools are the tree's own, run by its own loader: the host needs none of
# them, and the file system has no feature that its GRUB cannot read.
set -eux

esp_mib=16
root_start=$((1 + esp_mib))       # before the first partition: 1 MiB
root_mib=$(($1 - root_start - 1)) # after the last one, for the second table: 1 MiB

mkdir tree
tar --extract --file=root.tar --directory=tree --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*'
rm root.tar
# Nothing is newer than what the packages' scripts made of it: systemd has nothing to update on first boot
touch tree/etc/.updated tree/var/.updated

libraries=tree/usr/lib/x86_64-linux-gnu
own() { # by its path below the tree; /lib64 would be a link to the host's loader
    program=tree$1
    shift
    $libraries/ld-linux-x86-64.so.2 --library-path $libraries "$program" "$@"
}

truncate --size="${1}M" disk.raw
# The root is last on the disk, where it can grow, and has the number 1, as on Debian's own cloud images
own /sbin/sfdisk --quiet disk.raw <<-END
	label: gpt
	15: start=1MiB, size=${esp_mib}MiB, type=uefi, name=EFI
	1: start=${root_start}MiB, size=${root_mib}MiB, type=linux, name=root
	END
dd if=esp.img of=disk.raw bs=1M seek=1 conv=notrunc
MKE2FS_CONFIG=tree/etc/mke2fs.conf own /sbin/mke2fs -q -F -t ext4 -L debian-12 -m 1 -J size=16 -d tree \
    -E "offset=$((root_start << 20)),lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" \
    disk.raw "${root_mib}M"
