# cpr-luo: five new kernels, one after the other, under a guest whose RAM is in a memfd: it goes on, its clocks by what has passed. Called off, it goes on at once.
#: files vmm/cpr-vmm tests/guest/payload.elf
#: nvme 64M
#: edu
#: seconds 600

serial=/tmp/serial
kernels=5

# hmp_says_of COMMAND WHY: the answer has WHY in it.
hmp_says_of() {
  hmp "$1"
  [ "$answer" != "${answer#*"$2"}" ] || fail "$1: '$answer', not '$2'"
}
# refused WHY WORD...: a guest of these words cannot go, for that reason, and runs on.
refused() {
  why=$1
  shift
  start_vmm -display none -accel kvm -cpu host -m 64M -kernel tests/guest/payload.elf -append cpus=1 "$@"
  hmp_says "migrate_set_parameter mode cpr-luo"
  hmp_says_of "migrate luo:vm1" "$why"
  hmp_says "info status" "VM status: running"
  quit_vmm
}
incoming_failed() {
  hmp "info migrate"
  [ "$answer" != "${answer#*failed}" ]
}
save() {
  hmp_says "migrate_set_parameter mode cpr-luo"
  hmp_says "migrate -d luo:vm1"
  hmp_until "info status" "VM status: paused (postmigrate)"
}
# called_off WHAT: the guest goes on in the VMM that it was in.
called_off() {
  hmp_says cont
  hmp_says "info status" "VM status: running"
  await_guest_ok "$serial" 2
  say "$1: called off"
}
# Its age by its own TSC, which kvm-clock is checked against, is its age by the wall clock, which a kernel reads anew in
# whole seconds.
clock_is_right() {
  off=$(($(date +%s) - $(cat /mnt/born) - $(guest_seconds "$serial")))
  [ ${off#-} -le 3 ] || fail "the guest's clock is $off s behind"
}

if [ "$stage" = 1 ]; then
  mke2fs /dev/nvme0n1 >/dev/null
  mount /dev/nvme0n1 /mnt

  ram0="-machine q35,memory-backend=ram0 -object memory-backend"
  # shellcheck disable=SC2086
  refused "ram0 is not compatible with cpr-luo: it is of kind file" $ram0-file,id=ram0,size=64M,mem-path=/dev/shm/ram,share=on
  rm /dev/shm/ram
  refused "pc.ram is not compatible with CPR. share=on is required" -machine q35,aux-ram-share=off
  echo 40 >/proc/sys/vm/nr_hugepages
  # shellcheck disable=SC2086
  refused "ram0 is not compatible with cpr-luo: it is of kind memfd with huge pages" $ram0-memfd,id=ram0,size=64M,hugetlb=on
  echo 0 >/proc/sys/vm/nr_hugepages
  edu=$(grep -l '^0x11e8$' /sys/bus/pci/devices/*/device | grep -o '[0-9a-f:]*\.[0-7]')
  give_to_vfio "$edu"
  refused "VFIO devices cannot be used with cpr-luo" -machine q35 -device "vfio-pci,host=$edu"

  start_vmm -display none -machine q35 -accel kvm -cpu host -smp 2 -m 256M -serial "file:$serial" \
    -kernel tests/guest/payload.elf -append "cpus=2 ws=4 touch=32"
  hmp_says "info status" "VM status: running"
  await_guest_ok "$serial" 2
  echo $(($(date +%s) - $(guest_seconds "$serial"))) >/mnt/born
  hmp_says "migrate_set_parameter mode cpr-luo"
  exec 5<>/dev/liveupdate
  hmp_says_of "migrate luo:vm1" "/dev/liveupdate: another program has it open"
  exec 5<&-
  save
  called_off "by its user"
  # LINUX_REBOOT_CMD_KEXEC without a kernel.
  save
  ! debian perl -e 'exit(syscall(169, 0xfee1dead, 672274793, 0x45584543, 0) == 0 ? 0 : 1)' || fail "it went"
  called_off "by the kernel"
else
  mount /dev/nvme0n1 /mnt
  # One command resumes it; and what a user may have got wrong.
  case $stage in
    3)
      start_vmm -incoming defer
      hmp_says_of "migrate_incoming luo:vm2" "Live Update session 'vm2': the kernel before this one has left none"
      hmp_says "migrate_incoming luo:vm1"
      ;;
    4)
      start_vmm -m 128M -incoming luo:vm1
      await "not refused" incoming_failed
      hmp_says_of "info migrate" "-m is 134217728 bytes, the machine has 268435456 bytes"
      hmp_says "info status" "VM status: paused (inmigrate)"
      hmp_says "migrate_incoming luo:vm1"
      ;;
    *) start_vmm -incoming luo:vm1 ;;
  esac
  hmp_until "info status" "VM status: running"
  await_guest_ok "$serial" 2
  clock_is_right
  # It can be taken once.
  ! ./vmm/cpr-vmm -display none -monitor none -incoming luo:vm1 2>/tmp/again || fail "taken twice"
  grep -q "Live Update session 'vm1': the kernel before this one has left none" /tmp/again || fail "$(cat /tmp/again)"
fi

if [ "$stage" -le $kernels ]; then
  save
  umount /mnt
  # The VMM holds the session.
  next_kernel
fi
quit_vmm
cat "$serial"
