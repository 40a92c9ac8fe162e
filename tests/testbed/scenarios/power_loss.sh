# The power fails at 200 moments while a guest is saved over an older state: each time the disk has the older one or the newer one, whole; and the newer one once it is said to be complete.
# Arguments: how many moments.
#: files vmm/cpr-vmm tests/guest/payload.elf tests/disk_log/replay
#: logged 64M
#: seconds 1200

moments=${1:-200}

# save TOUCHED: a guest with so many MiB touched, all of which goes into /mnt/vm.state.
save() {
  start_vmm -display none -machine q35,memory-backend=ram0 -accel kvm -cpu host -m 64M \
    -object memory-backend-ram,id=ram0,size=64M,share=off -serial file:/tmp/serial \
    -kernel tests/guest/payload.elf -append "cpus=1 ws=1 touch=$1"
  hmp_says "info status" "VM status: running"
  await_guest_ok /tmp/serial 1
  migrate_to_file /mnt/vm.state off
}
writes() { ./tests/disk_log/replay /share/writes; }
# same_as FILE: the state on the disk is. By Debian's diff, which compares more than a byte at a time, and where the sizes are the same.
same_as() {
  [ "$(stat -c %s "$1")" = "$(stat -c %s /tmp/after/vm.state)" ] && debian diff -q "$1" - </tmp/after/vm.state >/dev/null
}
# fails_after WRITES SEED: what the disk has in the end is in $found.
fails_after() {
  rm -f /tmp/disk
  truncate -s 64M /tmp/disk
  ./tests/disk_log/replay /tmp/writes /tmp/disk "$1" "$2" || fail "the log of the disk's writes"
  mount -o loop /tmp/disk /tmp/after || fail "power lost after write $1 ($2): no file system"
  found="neither state, whole: $(ls -l /tmp/after)"
  ! same_as /tmp/older || found=older
  ! same_as /tmp/newer || found=newer
  umount /tmp/after
}

mkdir /tmp/after
mke2fs_journaled /dev/vda
mount /dev/vda /mnt
save 1
cp /mnt/vm.state /tmp/older
sync
first=$(writes)
save 2
last=$(writes)
cp /mnt/vm.state /tmp/newer
umount /mnt
all=$(writes)
cp /share/writes /tmp/writes
say "the older state $(stat -c %s /tmp/older) bytes, the newer one $(stat -c %s /tmp/newer), in $((last - first)) writes and flushes"
! cmp -s /tmp/older /tmp/newer || fail "both states are the same"

older=0 newer=0 moment=0
while [ $moment -lt "$moments" ]; do
  # Every other time the disk's cache was on the disk, too.
  write=$((first + (all - first) * moment / (moments - 1)))
  fails_after $write $((moment % 2 * moment))
  case $found in
    older) older=$((older + 1)) ;;
    newer) newer=$((newer + 1)) ;;
    *) fail "power lost after write $write (moment $moment): $found" ;;
  esac
  [ $write -lt "$last" ] || [ $found = newer ] || fail "said to be complete, lost after write $write: $found"
  moment=$((moment + 1))
done
[ $older -gt 0 ] && [ $newer -gt 0 ] || fail "not both were seen"
say "$moments moments: the older state $older times, the newer one $newer times"
