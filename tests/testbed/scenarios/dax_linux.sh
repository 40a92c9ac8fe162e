# A Linux guest with its RAM on a DAX device, at work on a disk, gets five new host kernels by cpr-reboot, one after the other: nothing is synced or unmounted, its clocks are right, and it notices nothing but the gaps.
# Arguments: how many new kernels.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: nvdimm 512M
#: nvme 64M
#: seconds 900

kernels=${1:-5}
dax_device
machine=$(echo "$machine" | sed 's|mem-path=/dev/shm/ram,|mem-path=/dev/dax0.0,align=2M,|; s/512M/256M/g')
machine="$machine -drive if=none,id=d0,format=raw,file=/mnt/disk.raw -device virtio-blk-pci,drive=d0"
add_agent_port
words="$machine -serial file:$serial"
if [ "$stage" = 1 ]; then
  mke2fs_journaled /dev/nvme0n1
  mount /dev/nvme0n1 /mnt
  truncate -s 8M /mnt/disk.raw
  install_agent
  make_working_guest disk /dev/vda
  # Without KVM's asynchronous page faults, which QEMU's processor makes internal errors of (docs/testbed.md).
  boot no-kvmapf
  said "work 4 "
  clock_is_right
else
  mount /dev/nvme0n1 /mnt
  cp /mnt/serial $serial
  from=$(work_lines)
  start -incoming defer
  take_in /mnt/vm.state
  works_on "kernel $stage"
  clock_is_right
  say "kernel $stage: $(work_done | cut -d' ' -f1) blocks so far; longest gap $(longest_gap "$from") ms"
fi
if [ "$stage" -le "$kernels" ]; then
  migrate_to_file /mnt/vm.state
  keep $serial /mnt/serial
  next_kernel
fi
quit_vmm
