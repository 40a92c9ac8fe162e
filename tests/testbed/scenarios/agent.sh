# A real qemu-guest-agent suspends the guest; asleep it goes through each mode, and system_wakeup wakes it where it was.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: seconds 600

# The agent, with the libraries that it loads.
debian true
for file in /usr/sbin/qemu-ga $(debian ldd /usr/sbin/qemu-ga | grep -o '/[^ ]*'); do
  mkdir -p "/tmp/guest/${file%/*}"
  cp -L "/debian$file" "/tmp/guest$file"
done
make_guest tests/testbed/guest/worker <<'TXT'
mkdir -p /run /var/run
port=$(echo /dev/vport*p1)
qemu-ga --method=virtio-serial --path="$port" --statedir=/run &
worker &
while sleep 1; do complaints | sed 's/^/bad: /'; done
TXT
words="$machine -serial file:$serial -chardev socket,id=qga0,path=/tmp/qga.sock,server=on,wait=off"
words="$words -device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"

asleep="paused (suspended)"
status_is() { hmp_says "info status" "VM status: $1"; }
# The connection stays open until the answer is there: its end would be the port's.
agent_answers() {
  connect_port /tmp/qga.sock
  echo '{"execute":"guest-ping"}' >&6
  port_answers '^{"return": {}}'
  disconnect_port
}
suspend() {
  echo '{"execute":"guest-suspend-ram"}' | debian ncat --send-only -U /tmp/qga.sock
  hmp_until "info status" "VM status: $asleep"
}

transfer_asleep() { transfer "$asleep"; }
execute_asleep() { execute "$asleep"; }
# As the documentation has it.
reboot_asleep() {
  migrate_to_file /tmp/vm.state
  start -incoming defer
  status_is "paused (inmigrate)"
  hmp_says "migrate_set_parameter mode cpr-reboot"
  hmp_says "migrate_set_capability x-ignore-shared on"
  hmp_says "migrate_incoming file:/tmp/vm.state"
  hmp_until "info status" "VM status: $asleep"
}

boot
said "work 3 "
status_is running
agent_answers
for step in reboot_asleep transfer_asleep execute_asleep; do
  suspend
  $step
  status_is "$asleep"
  hmp_says system_wakeup
  status_is running
  works_on "suspended, $step"
  agent_answers
  say "suspended, $step: awake and at work"
done
quit_vmm
