# A Linux guest at work on its CPUs and a disk gets five new host kernels by cpr-luo, one after the other: its clocks are right, and it notices nothing but the gaps.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: nvme 64M 16M
#: seconds 900

kernels=5
# A disk for what has to survive the kexecs, and the guest's.
# shellcheck disable=SC2046
set -- $(cd /sys/bus/pci/drivers/nvme && echo 0000:*)
state_disk=/dev/$(basename /sys/bus/pci/devices/"$1"/nvme/nvme*/nvme*n1)
# By a name that stays: which of them is nvme0 differs from kernel to kernel, and the guest is refused another one.
guest_disk=/tmp/guest_disk
ln -s /dev/"$(basename /sys/bus/pci/devices/"$2"/nvme/nvme*/nvme*n1)" $guest_disk

if [ "$stage" = 1 ]; then
  mke2fs "$state_disk" >/dev/null
  mount "$state_disk" /mnt
  make_working_guest disk /dev/vda
  words="-machine q35 -accel kvm -cpu host -smp 2 -m 512M -nodefaults -serial file:$serial"
  words="$words -drive if=none,id=d0,format=raw,file=$guest_disk -device virtio-blk-pci,drive=d0"
  boot
  said "work 4 "
else
  mount "$state_disk" /mnt
  cp /mnt/serial $serial
  from=$(work_lines)
  start_vmm -incoming luo:vm1
  hmp_until "info status" "VM status: running"
  works_on "kernel $stage"
  say "kernel $stage: longest gap $(longest_gap "$from") ms"
fi
if [ "$stage" -le $kernels ]; then
  hmp_says "migrate_set_parameter mode cpr-luo"
  hmp_says "migrate -d luo:vm1"
  hmp_until "info status" "VM status: paused (postmigrate)"
  cp $serial /mnt/serial
  umount /mnt
  next_kernel
fi
quit_vmm
