# The guest's pause with a device of the host's at work (edu, by VFIO) is at most 1.5 times the pause without: without, by group and container and by an iommufd in turn, medians compared.
# Arguments: rounds at least; at most; handovers of each mode in a turn, at most 5.
#: files bench/handover_bench vmm/cpr-vmm tests/guest/payload.elf
#: edu
#: seconds 900
#: by_name

# Something else that runs on the machine outside lengthens whatever pause it meets. Where a ratio is above the limit
# after the least rounds, more are made, and the medians of all count.
least=${1:-2} most=${2:-6} handovers=${3:-4}
limit=1.5
take_edu
: >/tmp/each

# turn NAME: a few handovers of each mode with this way to the device; of each, "MODE NAME PAUSE PHASE MS ..." is added
# to /tmp/each.
turn() {
  case $1 in
    without) set -- "$1" "" ;;
    container) set -- "$1" "-device vfio-pci,host=$edu" ;;
    iommufd) set -- "$1" "-object iommufd,id=i0 -device vfio-pci,host=$edu,iommufd=i0" ;;
  esac
  CPR_RIG_WORDS=$2 CPR_RIG_GUEST_WORDS=${2:+edu=msi} ./bench/handover_bench --each "--handovers=$handovers" \
    "--benchmark_filter=BM_Handover/(transfer|exec)/" >/tmp/turn || fail "$1: $(cat /tmp/turn)"
  sed -n "s/^each \([a-z]*\) /\1 $1 /p" /tmp/turn | tee -a /tmp/each
}

# median_of MODE NAME COLUMN: of what /tmp/each has there.
median_of() { grep "^$1 $2 " /tmp/each | cut -d' ' -f"$3" | median; }
phases() { for column in 5 7 9 11 13 15; do printf ' %8s' "$(median_of "$1" "$2" $column)"; done; }
# ratio MODE NAME: its pause to the one without.
ratio() { awk "BEGIN { printf \"%.2f\", $(median_of "$1" "$2" 3) / $(median_of "$1" without 3) }"; }
# longer: those that are above the limit.
longer() {
  for mode in transfer exec; do
    for way in container iommufd; do
      ratio=$(ratio $mode $way)
      awk "BEGIN { exit !($ratio <= $limit) }" || printf ' cpr-%s, %s: %s.' $mode $way "$ratio"
    done
  done
}

order="without container iommufd"
round=0
until [ $round -ge "$least" ] && { [ $round -ge "$most" ] || [ -z "$(longer)" ]; }; do
  round=$((round + 1))
  for way in $order; do turn $way; done
  order=$(echo "$order" | awk '{ print $3, $2, $1 }')
done

say "the phases, ms, median of $((round * handovers))"
say "$(printf '%-19s %8s %8s %8s %8s %8s %8s' mode check prepare stop save commit resume)"
for mode in transfer exec; do
  for way in without container iommufd; do say "$(printf '%-8s %-10s%s' $mode $way "$(phases $mode $way)")"; done
done
say "the guest's pause from outside, ms, median of $((round * handovers)); and to the one without"
say "$(printf '%-14s %9s %9s      %9s' mode without container iommufd)"
for mode in transfer exec; do
  say "$(printf 'cpr-%-10s %9s %9s %4s %9s %4s' $mode "$(median_of $mode without 3)" \
    "$(median_of $mode container 3)" "$(ratio $mode container)" "$(median_of $mode iommufd 3)" "$(ratio $mode iommufd)")"
done
too_long=$(longer)
[ -z "$too_long" ] || fail "times the pause without, more than $limit:$too_long"
