# RAM on a DAX device, the state on a disk, and a new kernel in between: the guest goes on, its clocks by what has passed.
#: files vmm/cpr-vmm tests/guest/payload.elf
#: nvdimm 512M
#: nvme 64M
#: seconds 600

serial=/tmp/serial

vmm() {
  start_vmm -display none -machine q35,memory-backend=ram0 -accel kvm -cpu host -smp 2 -m 256M \
    -object memory-backend-file,id=ram0,size=256M,mem-path=/dev/dax0.0,align=2M,share=on \
    -kernel tests/guest/payload.elf -append "cpus=2 ws=4 touch=32" -serial "file:$serial" "$@"
}

dax_device
if [ "$stage" = 1 ]; then
  mke2fs /dev/nvme0n1 >/dev/null
  mount /dev/nvme0n1 /mnt
  vmm
  hmp_says "info status" "VM status: running"
  await_guest_ok "$serial" 2
  hmp_says "migrate_set_parameter mode cpr-reboot"
  hmp_says "migrate_set_capability x-ignore-shared on"
  hmp_says "migrate -d file:/mnt/vm.state"
  hmp_until "info status" "VM status: paused (postmigrate)"
  echo $(($(date +%s) - $(guest_seconds "$serial"))) >/mnt/born
  quit_vmm
  umount /mnt
  next_kernel
fi
mount /dev/nvme0n1 /mnt
vmm -incoming defer
hmp_says "info status" "VM status: paused (inmigrate)"
hmp_says "migrate_set_parameter mode cpr-reboot"
hmp_says "migrate_set_capability x-ignore-shared on"
hmp_says "migrate_incoming file:/mnt/vm.state"
hmp_until "info status" "VM status: running"
await_guest_ok "$serial" 2
# Its age by its own TSC, which kvm-clock is checked against, is its age by the wall clock, which a kernel reads anew in
# whole seconds.
off=$(($(date +%s) - $(cat /mnt/born) - $(guest_seconds "$serial")))
[ ${off#-} -le 3 ] || fail "the guest's clock is $off s behind"
quit_vmm
cat "$serial"
