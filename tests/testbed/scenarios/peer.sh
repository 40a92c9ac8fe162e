# The same Linux guest, work and commands under cpr-vmm and under QEMU 11.1: the guest's pauses side by side, ours the smaller in every mode.
#: files vmm/cpr-vmm tests/testbed/guest/worker tests/testbed/guest/pause_watch
#: memory 3G
#: cpus 3
#: seconds 600

rounds=5
make_working_guest
mkfifo /tmp/watch.in /tmp/watch.out

cpr_vmm() { exec ./vmm/cpr-vmm "$@"; }
qemu() { exec chroot /debian qemu-system-x86_64 "$@"; }

# launch WORD...: the next VMM, number $number, process $vmm.
number=0
launch() {
  number=$((number + 1))
  # shellcheck disable=SC2086
  $peer $words -qmp "unix:/tmp/qmp.$number,server=on,wait=off" "$@" &
  vmm=$!
}

# connect [N]: qmp speaks to VMM N.
connect() {
  # Pipes of its own: the last connection's socat may not have ended yet.
  mkfifo "/tmp/in.$1" "/tmp/out.$1"
  debian socat - "UNIX-CONNECT:/tmp/qmp.$1,retry=100,interval=0.1" <"/tmp/in.$1" >"/tmp/out.$1" &
  # The end of an earlier child interrupts what opens a pipe.
  until command exec 5>"/tmp/in.$1"; do :; done
  until command exec 6<"/tmp/out.$1"; do :; done
  qmp '{"execute":"qmp_capabilities"}'
}
disconnect() { exec 5>&- 6<&-; }

# qmp JSON: $answer is what it returned; an error fails.
qmp() {
  echo "$1" >&5
  while IFS= read -r answer <&6; do
    case $answer in
      *'"error"'*) fail "$peer: $1: $answer" ;;
      *'"return"'*) return ;;
    esac
  done
  fail "$peer: $1: the VMM has ended"
}
status_is() {
  qmp '{"execute":"query-status"}'
  echo "$answer" | grep -q "\"status\": *\"$1\""
}
comes_to() { await "$peer: it does not come to $1" status_is "$1"; }
quit_peer() {
  echo '{"execute":"quit"}' >&5
  wait "$vmm" || fail "$peer: it quits with status $?"
  disconnect
}
set_mode() {
  qmp "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"mode\":\"$1\"${2:-}}}"
  [ "$1" = cpr-reboot ] || return 0
  qmp '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"x-ignore-shared","state":true}]}}'
}
channels='[{"channel-type":"main","addr":{"transport":"socket","type":"unix","path":"/tmp/main.sock"}}'
channels="$channels,{\"channel-type\":\"cpr\",\"addr\":{\"transport\":\"socket\",\"type\":\"unix\",\"path\":\"/tmp/cpr.sock\"}}]"

do_transfer() {
  rm -f /tmp/main.sock /tmp/cpr.sock
  old=$vmm
  launch -incoming unix:/tmp/main.sock \
    -incoming '{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"/tmp/cpr.sock"}}'
  await "$peer: no cpr.sock" test -S /tmp/cpr.sock
  set_mode cpr-transfer
  qmp "{\"execute\":\"migrate\",\"arguments\":{\"channels\":$channels}}"
  comes_to postmigrate
  disconnect
  kill "$old"
  connect "$number"
}

do_exec() {
  program=./vmm/cpr-vmm
  [ "$peer" = cpr_vmm ] || program=qemu-system-x86_64
  number=$((number + 1))
  command="\"$(echo "$program $words -qmp unix:/tmp/qmp.$number,server=on,wait=off -incoming file:/tmp/exec.state" | sed 's/ /","/g')\""
  set_mode cpr-exec ",\"cpr-exec-command\":[$command]"
  qmp '{"execute":"migrate","arguments":{"uri":"file:/tmp/exec.state"}}'
  disconnect
  connect "$number"
}

do_reboot() {
  set_mode cpr-reboot
  qmp '{"execute":"migrate","arguments":{"uri":"file:/tmp/reboot.state"}}'
  comes_to postmigrate
  quit_peer
  launch -incoming defer
  connect "$number"
  set_mode cpr-reboot
  qmp '{"execute":"migrate-incoming","arguments":{"uri":"file:/tmp/reboot.state"}}'
}

says_more_than() { [ "$(work_lines)" != "$1" ]; }

# watch NAME: the longest pause since the last call.
watch() {
  echo "$1" >&7
  read -r name pause <&8
}

debian true
: >/tmp/pauses
for peer in cpr_vmm qemu; do
  rm -f $serial /dev/shm/ram
  words="$(echo "$machine" | sed 's/memory-backend=ram0/memory-backend=ram0,aux-ram-share=on/') -display none -serial file:$serial"
  [ "$peer" = cpr_vmm ] || words="$words -nodefaults -no-user-config"
  launch -kernel /share/kernel -initrd /tmp/guest.cpio -append "console=ttyS0 panic=-1"
  connect "$number"
  said "work 2 "
  ./tests/testbed/guest/pause_watch /dev/shm/ram </tmp/watch.in >/tmp/watch.out &
  exec 7>/tmp/watch.in 8</tmp/watch.out
  watch boot
  works_on "$peer"
  watch undisturbed
  say "$peer, undisturbed: $pause ms"
  for mode in transfer exec reboot; do
    for round in $(seq $rounds); do
      do_$mode
      comes_to running
      # A VMM that writes the serial line anew has another file under that name.
      await "$peer, cpr-$mode: the guest says nothing more" says_more_than "$(work_lines)"
      watch $mode
      say "$peer, cpr-$mode: $pause ms"
      echo "$mode $peer $pause" >>/tmp/pauses
    done
  done
  exec 7>&- 8<&-
  quit_peer
  [ "$peer" = qemu ] || ! grep '^bad' $serial || fail "$peer: see above"
done

median() { grep "^$1 $2 " /tmp/pauses | cut -d' ' -f3 | sort -n | sed -n "$(((rounds + 1) / 2))p"; }
say "the guest's pause from outside, ms, median of $rounds"
say "$(printf '%-14s %10s %10s' mode cpr-vmm QEMU)"
slower=
for mode in transfer exec reboot; do
  ours=$(median $mode cpr_vmm) theirs=$(median $mode qemu)
  say "$(printf 'cpr-%-10s %10s %10s' $mode "$ours" "$theirs")"
  awk "BEGIN { exit !($ours < $theirs) }" || slower="$slower cpr-$mode"
done
[ -z "$slower" ] || fail "not smaller than QEMU's:$slower"
