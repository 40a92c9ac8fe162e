# What keeps a device of the host's (edu, NVMe) from a guest is said with what to do about it: another driver's device, a group that is not viable, too little locked memory, private RAM, another VM. Under -sandbox on all works; a device that the host wants back, or that fails, is told of where the guest is.
#: files vmm/cpr-vmm tests/guest/payload.elf tests/vfio/fail_device
#: edu
#: nvme 16M 16M
#: one_slot
#: seconds 300

machine=$(echo "$machine" | sed 's/512M/128M/g')
edu=$(grep -l '^0x11e8$' /sys/bus/pci/devices/*/device | grep -o '[0-9a-f:]*\.[0-7]')
# shellcheck disable=SC2046
set -- $(cd /sys/bus/pci/drivers/nvme && echo 0000:*)
nvme=$1 beside=$2
group_of() { basename "$(readlink "/sys/bus/pci/devices/$1/iommu_group")"; }
debian true

# So many KiB of locked memory for the program in its arguments, and no CAP_IPC_LOCK.
cat >/tmp/limited <<'TXT'
#!/bin/sh
ulimit -l $1
shift
libraries=/debian/lib/x86_64-linux-gnu:/debian/usr/lib/x86_64-linux-gnu
exec /debian/lib64/ld-linux-x86-64.so.2 --library-path $libraries /debian/usr/bin/setpriv --bounding-set -ipc_lock "$@"
TXT
chmod +x /tmp/limited
too_little="/tmp/limited 65536" too_little_for_two="/tmp/limited 196608"
limit() { echo "RLIMIT_MEMLOCK is $1 bytes: raise it (ulimit -l), or give CAP_IPC_LOCK"; }
locked="devices reach only locked memory, 134217728 bytes of it, and $(limit 67108864)"
ram="DMA mapping of 134217728 bytes at 0x0"

# says FILE TEXT: it is there.
says() { grep -q -F "$2" "$1"; }
# refused TEXT WORD...: a VMM with these words, and RAM of its own, does not start, for that reason.
own="-accel kvm -cpu host -m 128M -nodefaults"
refused() {
  text=$1
  shift
  # shellcheck disable=SC2086
  if timeout 60 $under ./vmm/cpr-vmm $own -kernel tests/guest/payload.elf "$@" >/tmp/refusal 2>&1; then
    fail "$*: ends without a word"
  fi
  says /tmp/refusal "cpr-vmm: $text" || fail "$*: '$(cat /tmp/refusal)', not '$text'"
  say "$(cat /tmp/refusal)"
}
by_group() { echo "-device vfio-pci,host=$1"; }
by_iommufd() { echo "-object iommufd,id=i0 -device vfio-pci,host=$1,iommufd=i0"; }

say "another driver"
# shellcheck disable=SC2046
{
  refused "vfio $edu: the host device has no driver; it has to be bound to vfio-pci" $(by_group "$edu")
  refused "vfio $nvme: the host's driver is nvme; it has to be bound to vfio-pci" $(by_iommufd "$nvme")

  say "another device of the group"
  give_to_vfio "$nvme"
  group=$(group_of "$nvme")
  [ "$group" = "$(group_of "$beside")" ] || fail "$nvme and $beside are not in one group"
  viable="is not viable: all its devices have to be bound to their vfio bus driver: $beside is bound to nvme"
  refused "vfio $nvme: group $group $viable" $(by_group "$nvme")
  refused "vfio $nvme: VFIO_DEVICE_BIND_IOMMUFD: Operation not permitted (group $group $viable)" $(by_iommufd "$nvme")

  say "locked memory"
  give_to_vfio "$edu"
  under=$too_little
  refused "vfio $edu: Memory region pc.ram: $ram: $locked: VFIO_IOMMU_MAP_DMA: Cannot allocate memory" $(by_group "$edu")
  refused "vfio $edu: $locked: VFIO_DEVICE_ATTACH_IOMMUFD_PT: Cannot allocate memory" $(by_iommufd "$edu")
  under=

  say "private RAM"
  private="-machine q35,memfd-alloc=off"
  no_file="it is no shared file or memfd, which an iommufd needs"
  refused "vfio $edu: Memory region pc.ram: $no_file" $private $(by_iommufd "$edu")
  words="$private $own $(by_group "$edu")"
  start -S -kernel tests/guest/payload.elf
  hmp_says "migrate_set_parameter mode cpr-exec"
  hmp_says "migrate_set_parameter cpr-exec-args ./vmm/cpr-vmm $words -incoming memfd:"
  hmp_says "migrate -d memfd:" "Error: Memory region pc.ram is not compatible with CPR. share=on is required for memory-backend objects, and aux-ram-share=on is required."
  quit_vmm
}

# not_taken_over TEXT LIMITED: by a VMM that is executed by that; the guest goes on.
not_taken_over() {
  rm -f /tmp/main.sock /tmp/cpr.sock
  # shellcheck disable=SC2086
  $2 ./vmm/cpr-vmm $words -incoming unix:/tmp/main.sock \
    -incoming '{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"/tmp/cpr.sock"}}' \
    >/tmp/refusal 2>&1 &
  limited=$!
  await "no cpr channel: $(cat /tmp/refusal)" test -S /tmp/cpr.sock
  ask_for_transfer "$vmm_number"
  if wait "$limited"; then fail "it has taken the guest: $(cat /tmp/refusal)"; fi
  hmp "info migrate"
  case $answer in
    *"$1"*) say "$1" ;;
    *) fail "'$answer' has no '$1'" ;;
  esac
  copies_on "refused"
}

back="vfio $edu: the host wants the device back"
# warned FILE: once.
warned() { [ "$(grep -c -F "$back" "$1")" = 1 ]; }
# wanted_back: the host takes the device from vfio-pci, for which it waits.
wanted_back() {
  echo "$edu" >/sys/bus/pci/drivers/vfio-pci/unbind &
  unbinding=$!
}
# given_back: it waits no more once the VMM has ended.
given_back() {
  kill -0 "$unbinding" || fail "the host has not waited"
  quit_vmm
  wait "$unbinding" || fail "vfio-pci has not let go"
  [ ! -e "/sys/bus/pci/devices/$edu/driver" ] || fail "$edu has a driver still"
}
# guest_with WORD...: in a sandbox, copying by edu. What the VMM says is in /tmp/said.
guest_with() {
  rm -f $serial /dev/shm/ram
  words="$machine -serial file:$serial -sandbox on $*"
  start -kernel tests/guest/payload.elf -append "cpus=2 ws=4 edu=msi" 2>/tmp/said
  said "cpr-guest: running"
  copies_on boot
}
goes_through_both() {
  transfer 2>/tmp/said
  copies_on "transfer under -sandbox on"
  execute
  copies_on "execute under -sandbox on"
}

trap 'cat /tmp/said /tmp/said.next 2>/dev/null' EXIT
say "group and container"
# shellcheck disable=SC2046
{
  guest_with $(by_group "$edu")
  theirs="(it belongs to another VM, perhaps one in postmigrate): Device or resource busy"
  refused "vfio $edu: /dev/vfio/$(group_of "$edu") $theirs" $(by_group "$edu")
  taken="(does it belong to another VM, perhaps one in postmigrate?)"
  refused "vfio $edu: VFIO_DEVICE_BIND_IOMMUFD: Device or resource busy $taken" $(by_iommufd "$edu")
}
not_taken_over "vfio $edu: $ram: $locked: VFIO_IOMMU_MAP_DMA: Cannot allocate memory" "$too_little"
goes_through_both
wanted_back
await "no word of the host's wish: $(cat /tmp/said)" warned /tmp/said
copies_on "the host waits"
transfer 2>/tmp/said.next
await "the new VMM does not warn: $(cat /tmp/said.next)" warned /tmp/said.next
copies_on "the host waits still"
given_back

say "iommufd"
give_to_vfio "$edu"
# shellcheck disable=SC2046
{
  guest_with $(by_iommufd "$edu")
  refused "vfio $edu: /dev/vfio/$(group_of "$edu") $theirs" $(by_group "$edu")
  refused "vfio $edu: VFIO_DEVICE_BIND_IOMMUFD: Invalid argument $taken" $(by_iommufd "$edu")
}
goes_through_both
wanted_back
await "no word of the host's wish: $(cat /tmp/said)" warned /tmp/said
copies_on "the host waits"
given_back

say "iommufd, its memory counted for a user"
give_to_vfio "$edu"
under=$too_little_for_two
# shellcheck disable=SC2046
guest_with $(by_iommufd "$edu")
under=
execute
copies_on "execute, counted for its user"
not_taken_over "vfio $edu: guest RAM of 134217728 bytes, which counts twice for a user while it changes hands: devices reach only locked memory, and $(limit 201326592): IOMMU_IOAS_CHANGE_PROCESS: Cannot allocate memory" \
  "$too_little_for_two"
quit_vmm

say "a failure while the guest is paused"
give_to_vfio "$beside"
rm -f $serial /dev/shm/ram
words="$machine -serial file:$serial $(by_group "$nvme")"
start -kernel tests/guest/payload.elf -append "cpus=2 ws=4" 2>/tmp/said
said "cpr-guest: running"
hmp_says stop
./tests/vfio/fail_device "$vmm" || fail "the device does not fail"
transfer paused 2>/tmp/said.next
hmp_until cont ""
failure="cpr-vmm: vfio $nvme: the device has reported an error that cannot be corrected: the guest is stopped"
await "no word of the failure: $(cat /tmp/said.next)" says /tmp/said.next "$failure"
hmp_until "info status" "VM status: paused"
! says /tmp/said "$failure" || fail "told by the VMM whose guest was paused"
quit_vmm
