# Settles what the packages read while they are installed. Runs inside the new tree, as its root,
# when it holds no more than the essential packages.
set -eux

# The usual initramfs carries every driver a disk may hang on: 29 MB for the boot loader to read and the
# kernel to unpack. This one carries those for the disks that QEMU has.
mkdir -p /etc/initramfs-tools/conf.d /etc/initramfs-tools/hooks
echo MODULES=list > /etc/initramfs-tools/conf.d/qemu-disks
cat > /etc/initramfs-tools/hooks/qemu-disks <<-'END'
	#!/bin/sh
	[ "$1" = prereqs ] && exit 0
	. /usr/share/initramfs-tools/hook-functions
	manual_add_modules ext4 crc32c
	manual_add_modules virtio_pci virtio_mmio virtio_blk virtio_scsi sd_mod sr_mod
	manual_add_modules ahci ata_piix nvme sym53c8xx mptspi mptsas megaraid_sas vmw_pvscsi
	manual_add_modules xhci_pci ehci_pci uhci_hcd usb_storage uas
	END
chmod +x /etc/initramfs-tools/hooks/qemu-disks
