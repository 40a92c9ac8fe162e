# A real qemu-guest-agent suspends the guest; asleep it goes through each mode, and system_wakeup wakes it where it was.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: seconds 600

install_agent
add_agent_port
make_working_guest
words="$machine -serial file:$serial"

pong='{"return": {}}'
transfer_asleep() { transfer "$asleep"; }
execute_asleep() { execute "$asleep"; }
reboot_asleep() {
  migrate_to_file /tmp/vm.state
  start -incoming defer
  take_in /tmp/vm.state "$asleep"
}

boot
said "work 3 "
hmp_says "info status" "VM status: running"
agent_answers guest-ping "$pong"
for step in reboot_asleep transfer_asleep execute_asleep; do
  suspend
  $step
  hmp_says "info status" "VM status: $asleep"
  wake "suspended, $step"
  agent_answers guest-ping "$pong"
done
quit_vmm
