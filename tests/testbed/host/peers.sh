# shellcheck shell=sh
# Scenarios that put a guest under cpr-vmm and under QEMU 11.1, by the same words and the same commands: the helpers here
# act for $peer, cpr_vmm or qemu, and the first that is to be called is peer_machine.

cpr_vmm() { exec ./vmm/cpr-vmm "$@"; }
qemu() { exec chroot /debian qemu-system-x86_64 "$@"; }

# peer_machine WORD...: $words for linux_guest.sh's machine and these. Its RAM and its serial line's file are new; what
# later VMMs write goes to the end of that.
peer_machine() {
  words=$(echo "$machine" | sed 's/memory-backend=ram0/memory-backend=ram0,aux-ram-share=on/')
  words="$words -no-user-config -display none -chardev file,id=s0,path=$serial,append=on -serial chardev:s0${*:+ $*}"
  rm -f "$serial" /dev/shm/ram
}

# launch WORD...: the next VMM, number $number, process $vmm.
number=0
launch() {
  number=$((number + 1))
  # shellcheck disable=SC2086
  $peer $words -qmp "unix:/tmp/qmp.$number,server=on,wait=off" "$@" &
  vmm=$!
}

# connect: qmp speaks to VMM $number.
connect() {
  # Whoever pins all of a guest's RAM first takes his time.
  await "$peer: no QMP socket" test -S "/tmp/qmp.$number"
  # Pipes of its own: the last connection's socat may not have ended yet.
  rm -f "/tmp/in.$number" "/tmp/out.$number"
  mkfifo "/tmp/in.$number" "/tmp/out.$number"
  debian socat - "UNIX-CONNECT:/tmp/qmp.$number,retry=100,interval=0.1" <"/tmp/in.$number" >"/tmp/out.$number" &
  # The end of an earlier child interrupts what opens a pipe.
  until command exec 5>"/tmp/in.$number"; do :; done
  until command exec 6<"/tmp/out.$number"; do :; done
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
  qmp '{"execute":"query-migrate"}'
  ! echo "$answer" | grep -q '"status": *"failed"' || fail "$peer: $answer"
  qmp '{"execute":"query-status"}'
  ! echo "$answer" | grep -q '"status": *"internal-error"' || fail "$peer: KVM_RUN went wrong: $answer"
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
  connect
}

do_exec() {
  program=./vmm/cpr-vmm
  [ "$peer" = cpr_vmm ] || program=qemu-system-x86_64
  number=$((number + 1))
  command="\"$(echo "$program $words -qmp unix:/tmp/qmp.$number,server=on,wait=off -incoming file:/tmp/exec.state" | sed 's/ /","/g')\""
  set_mode cpr-exec ",\"cpr-exec-command\":[$command]"
  qmp '{"execute":"migrate","arguments":{"uri":"file:/tmp/exec.state"}}'
  disconnect
  tries=0
  until [ -S "/tmp/qmp.$number" ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || was_not_replaced
    sleep 0.2
  done
  connect
}
# The old program may still be there to tell why.
was_not_replaced() {
  number=$((number - 1))
  connect
  qmp '{"execute":"query-migrate"}'
  fail "$peer, cpr-exec: $answer"
}

do_reboot() {
  set_mode cpr-reboot
  qmp '{"execute":"migrate","arguments":{"uri":"file:/tmp/reboot.state"}}'
  comes_to postmigrate
  quit_peer
  launch -incoming defer
  connect
  set_mode cpr-reboot
  qmp '{"execute":"migrate-incoming","arguments":{"uri":"file:/tmp/reboot.state"}}'
}

# begin_watch: pause_watch looks at the beat of the guest in /dev/shm/ram until end_watch.
begin_watch() {
  rm -f /tmp/watch.in /tmp/watch.out
  mkfifo /tmp/watch.in /tmp/watch.out
  ./tests/testbed/guest/pause_watch /dev/shm/ram </tmp/watch.in >/tmp/watch.out &
  exec 7>/tmp/watch.in 8</tmp/watch.out
  watch boot
}
end_watch() { exec 7>&- 8<&-; }
# watch NAME: $pause, the longest since the last call, in ms.
watch() {
  echo "$1" >&7
  read -r name pause <&8
}

# note_pause MODE: the longest since the last look belongs to this mode.
note_pause() {
  watch "$1"
  say "$peer, cpr-$1: $pause ms"
  echo "$1 $peer $pause" >>/tmp/pauses
}
# median_pause MODE PEER: of those noted in /tmp/pauses.
median_pause() { sed -n "s/^$1 $2 //p" /tmp/pauses | median; }
