# Interrupts of the host's devices that are withheld at the moment of the pause, by a mask or since their handler has not ended, come once after it: INTx (edu) by either IOAPIC and MSI-X (e1000e), by groups and containers and by an iommufd.
# Arguments: how often each, 1 if not given.
#: files vmm/cpr-vmm tests/guest/payload.elf
#: edu
#: e1000e
#: seconds 600

rounds=${1:-1}
machine=$(echo "$machine" | sed 's/512M/128M/g')
words_gpa=$((0x200000 + 448)) # withhold_request and what follows it (tests/guest/guest_abi.h)
# What is withheld, by the number that asks for it.
let_go=0 masked=1 function_masked=2 unacknowledged=3 not_ended=4

# counts: into $done, $expected, $came.
counts() {
  # shellcheck disable=SC2046
  set -- $(dd if=/dev/shm/ram bs=8 skip=$((words_gpa / 8)) count=4 2>/dev/null | od -An -v -t u8)
  done=$2 expected=$3 came=$4
}
is_done() {
  counts
  ! grep ' FAIL ' $serial || fail "$asking: see above"
  [ "$done" = $((asked * 256 + $1)) ]
}
# ask WHAT WHEN: the guest withholds an interrupt, or lets it go, and all that should have come has.
ask() {
  asking=$2
  asked=$((asked % 255 + 1))
  # shellcheck disable=SC2059
  printf "\\$(printf %o "$1")\\$(printf %o $asked)" | dd of=/dev/shm/ram bs=2 seek=$((words_gpa / 2)) conv=notrunc 2>/dev/null
  await "$2: request $1 is not done" is_done "$1"
  [ "$expected" = "$came" ] || fail "$2: $came interrupts, not $expected"
}
came_since() { [ "$came" = $(($2 + $3)) ] || fail "$1: interrupts went from $2 to $came, not by $3"; }

# withheld_over WHAT MODE: one interrupt over a handover, and the one after it.
withheld_over() {
  over="$2, request $1"
  counts
  before=$came
  ask "$1" "before $over"
  case $1 in
    "$masked" | "$function_masked") came_since "before $over" "$before" 0 ;;
    *) came_since "before $over" "$before" 1 ;;
  esac
  withheld=$came
  $2
  counts
  came_since "just after $over" "$withheld" 0
  ask "$let_go" "after $over"
  came_since "after $over" "$before" 2
}

# withholds INTERRUPT "WHAT..." WORD...: a guest with these words for the device. INTERRUPT: msix, or the pin of its INTx.
withholds() {
  interrupt=$1 kinds=$2
  shift 2
  say "$interrupt: $*"
  words="$machine -serial file:$serial $*"
  rm -f $serial /dev/shm/ram
  asked=0
  start -kernel tests/guest/payload.elf -append "cpus=2 ws=1 withhold=$interrupt"
  said "cpr-guest: running"
  for mode in transfer execute; do
    for _ in $(seq "$rounds"); do
      for kind in $kinds; do withheld_over "$kind" $mode; done
    done
  done
  counts
  say "$interrupt: $came interrupts of $expected"
  quit_vmm
}

edu=$(grep -l '^0x11e8$' /sys/bus/pci/devices/*/device | grep -o '[0-9a-f:]*\.[0-7]')
e1000e=$(grep -l '^0x10d3$' /sys/bus/pci/devices/*/device | grep -o '[0-9a-f:]*\.[0-7]')
give_to_vfio "$edu"
give_to_vfio "$e1000e"

of_line="$masked $unacknowledged $not_ended" of_vector="$masked $function_masked $not_ended"
# Pin A in slot 6.
withholds 22 "$of_line" -device "vfio-pci,host=$edu,addr=6"
withholds 22 "$of_line" -machine kernel-irqchip=on -device "vfio-pci,host=$edu,addr=6"
withholds msix "$of_vector" -device "vfio-pci,host=$e1000e"
withholds 22 "$of_line" -object iommufd,id=i0 -device "vfio-pci,host=$edu,iommufd=i0,addr=6"
withholds 22 "$of_line" -machine kernel-irqchip=on -object iommufd,id=i0 -device "vfio-pci,host=$edu,iommufd=i0,addr=6"
withholds msix "$of_vector" -object iommufd,id=i0 -device "vfio-pci,host=$e1000e,iommufd=i0"
