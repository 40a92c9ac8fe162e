# Devices of the host's by VFIO under cpr-vmm and under QEMU 11.1, side by side: the self-checking guest copies through edu, a Linux guest writes to an NVMe disk and reads it back, through transfers and execs.
# Arguments: transfers and execs each of the guest on edu; of the one on the disk.
#: files vmm/cpr-vmm tests/guest/payload.elf tests/testbed/guest/worker tests/testbed/guest/pause_watch
#: memory 3G
#: edu
#: nvme 64M
#: seconds 900

edu_rounds=${1:-20} disk_rounds=${2:-5}
take_edu
nvme=$(pci_of /sys/block/nvme0n1/device/device)
give_to_vfio "$nvme"
make_working_guest disk /dev/nvme0n1
linux_machine=$machine
: >/tmp/notes
: >/tmp/findings
debian true

# through ROUNDS COMMAND: $mode, so often. After each, COMMAND WHAT waits until the guest has gone on at its work.
through() {
  begin_watch
  for round in $(seq "$1"); do
    "do_$mode"
    comes_to running
    $2 "$peer, $guest, cpr-$mode $round"
    note_pause "$mode"
  done
  end_watch
}

on_edu() {
  machine=$(echo "$linux_machine" | sed 's/512M/128M/g')
  peer_machine -device "vfio-pci,host=$edu"
  launch -kernel /checkout/tests/guest/payload.elf -append "cpus=2 ws=4 edu=msi"
  connect
  said "cpr-guest: running"
  copies_on "$peer, boot"
  through "$edu_rounds" copies_on
  qmp '{"execute":"stop"}'
  check_counts "$peer, at the end"
  quit_peer
}

on_disk() {
  machine=$linux_machine
  peer_machine -device "vfio-pci,host=$nvme"
  launch -kernel /share/kernel -initrd /tmp/guest.cpio -append "$kernel_words"
  connect
  said "work 4 "
  through "$disk_rounds" works_on
  quit_peer
}

# note WHAT VALUE: of $peer with $guest and $mode, for the table.
note() { printf '%s\t%s\t%s\t%s\n' "$guest, cpr-$mode" "$1" "$peer" "$2" >>/tmp/notes; }
note_pauses() {
  note "handovers" "$(grep -c "^$mode $peer " /tmp/pauses || true)"
  note "the guest's pause, ms, median" "$(median_pause "$mode" "$peer")"
}
# note_complaints EXPRESSION: sed's, for the guest's words in its lines; each once.
note_complaints() {
  tr -d '\r' <$serial | sed -n "$1" | sort -u >/tmp/complaints
  note "complaints of the guest" "$(wc -l </tmp/complaints)"
  sed "s/^/$peer, $guest, cpr-$mode, the guest: /" /tmp/complaints >>/tmp/findings
}
note_edu() {
  counts
  note "copies asked" "$asked"
  note "copies verified" "$verified"
  note "DMAs" "$dmas"
  note "interrupts" "$interrupts"
  note_pauses
  note_complaints 's/.* FAIL //p'
}
note_disk() {
  note "blocks written and read back" "$(work_done | cut -d' ' -f1)"
  note "found bad by its worker" "$(sed -n 's/^work .* bad \([0-9]*\) .*/\1/p' $serial | tail -n 1)"
  note "longest gap it saw, ms" "$(longest_gap 4)"
  note_pauses
  note_complaints 's/^bad: //p'
}

# What goes wrong under QEMU is a finding about QEMU, and the guest there goes on after a complaint. Ends with $found
# after one: any other status but 0 is a mistake of ours.
found=3
under_qemu() {
  guest_is_well() { :; }
  nothing_is_bad() { :; }
  patience=300  # what does not come is found out in every run
  fail() {
    echo "$guest, cpr-$mode: $*" >>/tmp/findings
    tail -n 20 $serial
    # Until they are gone, the device is theirs. Perhaps they are.
    kill -KILL "$vmm" ${old:+"$old"} 2>/dev/null || :
    wait "$vmm" ${old:+"$old"} || :
    exit $found
  }
  old=
  "on_$guest"
}

# Each mode with a guest of its own: what QEMU does in one is no excuse in the other.
compare() {
  : >/tmp/pauses
  peer=cpr_vmm
  "on_$guest"
  "note_$guest"
  peer=qemu
  # Not `|| true`, where set -e is off.
  set +e
  (set -e && under_qemu)
  ended=$?
  set -e
  [ $ended -eq 0 ] || [ $ended -eq $found ] || fail "$guest, cpr-$mode under QEMU: the scenario ended with $ended"
  number=$((number + 100))  # those that it took
  "note_$guest"
}

table() {
  say "$(printf '%-34s %10s %10s' "$1" cpr-vmm "QEMU 11.1")"
  awk -F '\t' -v part="$1" '
    $1 == part && !($2 in value) { row[++rows] = $2; value[$2] = 1 }
    $1 == part { value[$2, $3] = $4 }
    END { for (i = 1; i <= rows; ++i) printf "%-34s %10s %10s\n", row[i], value[row[i], "cpr_vmm"], value[row[i], "qemu"] }
  ' /tmp/notes | while IFS= read -r line; do say "$line"; done
}

for guest in edu disk; do
  for mode in transfer exec; do compare; done
done
for guest in edu disk; do
  for mode in transfer exec; do table "$guest, cpr-$mode"; done
done
while IFS= read -r line; do say "finding: $line"; done </tmp/findings
! grep '^cpr_vmm' /tmp/findings || fail "cpr-vmm: see above"
