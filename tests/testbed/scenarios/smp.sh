# 4 vCPUs: one that the guest took offline comes back after each mode, and one in a loop with interrupts off stays in it.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: cpus 3
#: seconds 600

# The power button asks for the next step. vCPU 3 does nothing until it goes deaf, and nothing that anybody waits for can
# be on it then: no interrupt, no part of a process. RCU would complain, and rightly.
make_guest tests/testbed/guest/worker <<'TXT'
online() { echo "$1" >/sys/devices/system/cpu/cpu2/online; }
# Of CPU 3, the third one that is online.
timer_interrupts() { awk '/LOC:/ { print $4 }' /proc/interrupts; }
mount -t debugfs debug /sys/kernel/debug
for affinity in /proc/irq/*/smp_affinity; do echo 1 >"$affinity" 2>/dev/null; done
taskset -p 3 $$ >/dev/null
online 0
worker cpus 2 &
echo "offline $(cat /sys/devices/system/cpu/online)"
steps=0
while sleep 1; do
  complaints | sed 's/^/bad: /'
  [ $steps != 4 ] || echo "deaf $(timer_interrupts)"
  [ "$(pressed)" != $steps ] || continue
  steps=$((steps + 1))
  if [ $steps = 4 ]; then
    taskset 8 sh -c 'echo HARDLOCKUP >/sys/kernel/debug/provoke-crash/DIRECT' &
  else
    online 1 && echo "back $steps $(cat /sys/devices/system/cpu/online)"
    online 0
  fi
done
TXT
machine=$(echo "$machine" | sed 's/-smp 2/-smp 4/')
words="$machine -serial file:$serial"

# Processor time that a vCPU of the VMM has used, in ticks of the kernel.
ticks() {
  for task in "/proc/$vmm/task/"*; do
    [ "$(cat "$task/comm")" != "CPU $1/KVM" ] || sed 's/.*) //' "$task/stat" | awk '{ print $12 + $13 }'
  done
}
# heard: how many interrupts vCPU 3 has had, as the guest says after some seconds more.
heard() {
  lines=$(grep -c '^deaf' $serial || true)
  until [ "$(grep -c '^deaf' $serial)" -ge $((lines + 3)) ]; do works_on "a vCPU deaf" >&2; done
  grep '^deaf' $serial | tail -n 1
}

boot rcupdate.rcu_cpu_stall_suppress=1
said "offline 0-1,3"
presses=0
press() {
  presses=$((presses + 1))
  hmp_says system_powerdown
}
for step in transfer execute reboot_vmm; do
  $step
  press
  said "back $presses 0-3"
  works_on "a vCPU offline, $step"
  say "a vCPU offline, $step: it came back"
done

press
said "deaf "
deaf=$(heard)
for step in transfer execute reboot_vmm; do
  $step
  before=$(ticks 3)
  now=$(heard)
  [ "$now" = "$deaf" ] || fail "$step: vCPU 3 has left its loop: $now, not $deaf"
  [ $(($(ticks 3) - before)) -ge 50 ] || fail "$step: vCPU 3 does not run"
  say "a vCPU deaf, $step: it still is, and runs"
done
quit_vmm
