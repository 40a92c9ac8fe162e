# The emulated host itself: KVM, an IOMMU, a DAX device, a disk, Debian's programs, and another kernel by kexec.
#: nvdimm 64M
#: nvme 64M
#: edu

[ -c /dev/kvm ] || fail "no /dev/kvm"
[ -d /sys/class/iommu/dmar0 ] || fail "no IOMMU"
grep -q . /sys/kernel/iommu_groups/*/devices/*/vendor || fail "no IOMMU groups"
grep -qx 0x11e8 /sys/bus/pci/devices/*/device || fail "no edu device"
[ -c /dev/liveupdate ] || fail "no /dev/liveupdate"
dax_device

if [ "$stage" = 1 ]; then
  mke2fs /dev/nvme0n1 >/dev/null
  mount /dev/nvme0n1 /mnt
  echo kept >/mnt/file
  umount /mnt
  next_kernel
fi
mount /dev/nvme0n1 /mnt
[ "$(cat /mnt/file)" = kept ] || fail "the disk lost a file over the kexec"
