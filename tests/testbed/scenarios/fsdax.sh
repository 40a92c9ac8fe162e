# RAM in a file of a DAX file system and the state beside it, and a new kernel in between, without an unmount: the guest goes on, its clocks by what has passed.
#: files vmm/cpr-vmm tests/guest/payload.elf
#: nvdimm 512M
#: seconds 600

serial=/tmp/serial

vmm() {
  start_vmm -display none -machine q35,memory-backend=ram0 -accel kvm -cpu host -smp 2 -m 256M \
    -object memory-backend-file,id=ram0,size=256M,mem-path=/mnt/ram,share=on \
    -kernel tests/guest/payload.elf -append "cpus=2 ws=4 touch=32" -serial "file:$serial" "$@"
}

if [ "$stage" = 1 ]; then
  debian ndctl create-namespace -f -e namespace0.0 -m fsdax >/dev/null
  mke2fs_journaled -b 4096 /dev/pmem0  # a page: DAX wants it
fi
mount -t ext4 -o dax /dev/pmem0 /mnt
if [ "$stage" = 1 ]; then
  vmm
  hmp_says "info status" "VM status: running"
  await_guest_ok "$serial" 2
  migrate_to_file /mnt/vm.state
  echo $(($(date +%s) - $(guest_seconds "$serial"))) >/tmp/born
  keep /tmp/born /mnt/born
  next_kernel
fi
vmm -incoming defer
take_in /mnt/vm.state
await_guest_ok "$serial" 2
# Its age by its own TSC, which kvm-clock is checked against, is its age by the wall clock, which a kernel reads anew in
# whole seconds.
off=$(($(date +%s) - $(cat /mnt/born) - $(guest_seconds "$serial")))
[ ${off#-} -le 3 ] || fail "the guest's clock is $off s behind"
quit_vmm
cat "$serial"
