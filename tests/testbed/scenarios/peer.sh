# The same Linux guest, work and commands under cpr-vmm and under QEMU 11.1: the guest's pauses side by side, ours the smaller in every mode.
#: files vmm/cpr-vmm tests/testbed/guest/worker tests/testbed/guest/pause_watch
#: memory 3G
#: cpus 3
#: seconds 600

rounds=5
make_working_guest

says_more_than() { [ "$(work_lines)" -gt "$1" ]; }

debian true
: >/tmp/pauses
for peer in cpr_vmm qemu; do
  peer_machine
  launch -kernel /share/kernel -initrd /tmp/guest.cpio -append "$kernel_words"
  connect
  said "work 2 "
  begin_watch
  works_on "$peer"
  watch undisturbed
  say "$peer, undisturbed: $pause ms"
  for mode in transfer exec reboot; do
    for round in $(seq $rounds); do
      do_$mode
      comes_to running
      await "$peer, cpr-$mode: the guest says nothing more" says_more_than "$(work_lines)"
      note_pause $mode
    done
  done
  end_watch
  quit_peer
  [ "$peer" = qemu ] || ! grep '^bad' $serial || fail "$peer: see above"
done

say "the guest's pause from outside, ms, median of $rounds"
say "$(printf '%-14s %10s %10s' mode cpr-vmm QEMU)"
slower=
for mode in transfer exec reboot; do
  ours=$(median_pause $mode cpr_vmm) theirs=$(median_pause $mode qemu)
  say "$(printf 'cpr-%-10s %10s %10s' $mode "$ours" "$theirs")"
  awk "BEGIN { exit !($ours < $theirs) }" || slower="$slower cpr-$mode"
done
[ -z "$slower" ] || fail "not smaller than QEMU's:$slower"
