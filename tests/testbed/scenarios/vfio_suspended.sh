# A guest with a device of the host's, suspended by its agent, goes to another VMM by a state file, its RAM on DAX: by an iommufd, then by group and container through a kexec of the host.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: nvdimm 512M
#: nvme 64M 16M
#: seconds 600

# The guest's disk, and one for what has to survive the kexec.
# shellcheck disable=SC2046
set -- $(cd /sys/bus/pci/drivers/nvme && echo 0000:*)
nvme=$1
state_disk=/dev/$(basename /sys/bus/pci/devices/"$2"/nvme/nvme*/nvme*n1)

awake="VFIO device only supports cpr-reboot for runstate suspended"
# machine_with WORD...: these words for a device of the host.
machine_with() { words="$machine -serial file:$serial $*"; }
# not_taken WHY: the state is refused for that. It can be taken still, as take_in shows.
not_taken() {
  hmp_says "migrate_set_parameter mode cpr-reboot"
  hmp_says "migrate_set_capability x-ignore-shared on"
  hmp_says "migrate_incoming file:/mnt/vm.state" "Error: /mnt/vm.state: vfio $nvme: $1"
}

dax_device
machine=$(echo "$machine" | sed 's|mem-path=/dev/shm/ram,|mem-path=/dev/dax0.0,align=2M,|; s/512M/256M/g')
add_agent_port
if [ "$stage" = 1 ]; then
  mke2fs "$state_disk" >/dev/null
  mount "$state_disk" /mnt
  install_agent
  make_working_guest disk /dev/nvme0n1
  give_to_vfio "$nvme"

  say "private RAM: pinned for the device before the state's RAM comes"
  words="-machine q35,memfd-alloc=off -accel kvm -cpu host -m 128M -nodefaults -device vfio-pci,host=$nvme"
  start -S -kernel /share/kernel
  private="Memory region pc.ram is not compatible with CPR. share=on is required for memory-backend objects, and aux-ram-share=on is required."
  hmp_says "migrate_set_parameter mode cpr-reboot"
  hmp_says "migrate -d file:/mnt/vm.state" "Error: $private; $awake"
  quit_vmm

  say "iommufd"
  machine_with -object iommufd,id=i0 -device "vfio-pci,host=$nvme,iommufd=i0"
  boot
  said "work 4 "
  hmp_says "migrate_set_parameter mode cpr-reboot"
  hmp_says "migrate -d file:/mnt/vm.state" "Error: $awake"
  works_on "refused"
  suspend
  save_to_file /mnt/vm.state
  old=$vmm
  # Its agent's socket is taken, too.
  words=$(echo "$words" | sed 's|/tmp/qga.sock|/tmp/qga.new.sock|')
  start -incoming defer
  not_taken "VFIO_DEVICE_BIND_IOMMUFD: Invalid argument (does it belong to another VM, perhaps one in postmigrate?)"
  printf '{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n' >/tmp/quit
  debian socat -t 5 - "UNIX-CONNECT:/tmp/qmp.$((vmm_number - 1))" </tmp/quit
  wait "$old" || fail "the old VMM ends with status $?"
  take_in /mnt/vm.state "$asleep"
  wake "iommufd, another VMM"
  quit_vmm

  say "group and container"
  rm $serial
  machine_with -device "vfio-pci,host=$nvme"
  boot
  said "work 4 "
  hmp_says "info status" "VM status: running"
  suspend
  migrate_to_file /mnt/vm.state
  cp $serial /mnt/serial
  umount /mnt
  next_kernel
fi
mount "$state_disk" /mnt
cp /mnt/serial $serial
machine_with -device "vfio-pci,host=$nvme"
start -incoming defer
not_taken "the host's driver is nvme; it has to be bound to vfio-pci"
give_to_vfio "$nvme"
take_in /mnt/vm.state "$asleep"
# A device that was opened for a guest that has not run since goes on to the next VMM, too.
transfer "$asleep"
wake "group and container, another kernel"
clock_is_right
quit_vmm
