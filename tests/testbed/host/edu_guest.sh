# shellcheck shell=sh
# The self-checking guest (tests/guest) that copies pages through QEMU's edu device all the time, its RAM in /dev/shm/ram.

# take_edu: the host's goes to vfio-pci; $edu is its address.
take_edu() {
  edu=$(grep -l '^0x11e8$' /sys/bus/pci/devices/*/device | grep -o '[0-9a-f:]*\.[0-7]')
  give_to_vfio "$edu"
}

# abi BYTE WORDS: 8-byte words of what the guest shows in its RAM (tests/guest/guest_abi.h).
abi() { dd if=/dev/shm/ram bs=8 skip=$(((0x200000 + $1) / 8)) count="$2" 2>/dev/null | od -An -v -t u8; }
# counts: into $asked, $verified (copies), $dmas, $interrupts.
counts() {
  # shellcheck disable=SC2046
  set -- $(abi 416 4)
  asked=${1:-0} verified=${2:-0} dmas=${3:-0} interrupts=${4:-0}  # 0: no RAM yet
  count="$asked copies, $verified verified, $dmas DMAs, $interrupts interrupts"
}
# check_counts WHAT: of a guest that is stopped, nothing is missing but what is under way, and nothing is too many.
check_counts() {
  counts
  if [ $((asked - verified)) -gt 1 ] || [ $((dmas - interrupts)) -gt 1 ] || [ $((2 * verified)) -gt "$interrupts" ] ||
    [ "$interrupts" -gt "$dmas" ] || [ "$dmas" -gt $((2 * asked)) ]; then
    fail "$1: $count"
  fi
  say "$1: $count"
}

guest_is_well() { ! grep ' FAIL ' $serial || fail "$1: see above"; }
verified_more_than() {
  counts
  guest_is_well "$copying"
  [ "$verified" -gt "$1" ]
}
# copies_on WHAT: one copy after the one that is under way is right, too, and nothing is wrong.
copies_on() {
  copying=$1
  counts
  await "$1: of $asked copies $verified are verified, of $dmas DMAs $interrupts have interrupted" verified_more_than $((verified + 1))
}
