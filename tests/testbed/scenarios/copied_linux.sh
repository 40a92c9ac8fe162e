# A Linux guest whose RAM cannot stay in place (anonymous, private), at work on a disk, gets a new host kernel by cpr-reboot, its RAM copied into the state: nothing is synced or unmounted, its clocks are right, and it notices nothing but the gap.
# Arguments: how many new kernels, one after the other.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: nvme 512M
#: seconds 900

kernels=${1:-1}
machine="-machine q35,memory-backend=ram0 -accel kvm -cpu host -smp 2 -m 256M -nodefaults"
machine="$machine -object memory-backend-ram,id=ram0,size=256M,share=off"
machine="$machine -drive if=none,id=d0,format=raw,file=/mnt/disk.raw -device virtio-blk-pci,drive=d0"
add_agent_port
words="$machine -serial file:$serial"
if [ "$stage" = 1 ]; then
  mke2fs_journaled /dev/nvme0n1
  mount /dev/nvme0n1 /mnt
  truncate -s 8M /mnt/disk.raw
  install_agent
  make_working_guest disk /dev/vda
  boot
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
