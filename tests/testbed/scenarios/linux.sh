# A stock Linux kernel boots as a bzImage, finds CPUs, PCI and power states by ACPI, sleeps, and goes through each mode.
#: files vmm/cpr-vmm
#: memory 3G
#: seconds 900

# The guest says what it has found, then "beat N" and what went wrong since. The power button puts it to sleep the first
# time, and ends it the second.
make_guest <<'TXT'
echo "found cpus $(grep -c ^processor /proc/cpuinfo)"
echo "found pci $(ls /sys/bus/pci/devices | tr '\n' ' ')"
echo "found tables $(ls /sys/firmware/acpi/tables | tr '\n' ' ')"
echo "found sleep $(cat /sys/power/mem_sleep)"
echo "found pnp $(cat /sys/bus/pnp/devices/*/id | tr '\n' ' ')"
echo "found clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "found all"
beats=0
slept=0
while true; do
  sleep 0.2
  beats=$((beats + 1))
  echo "beat $beats $(cut -d' ' -f1 /proc/uptime) $(complaints | wc -l)"
  [ "$slept" = "$(pressed)" ] && continue
  slept=$((slept + 1))
  if [ "$slept" = 1 ]; then
    echo mem >/sys/power/state
    echo "awake $?"
  else
    poweroff -f
  fi
done
TXT

beats() { sed -n 's/^beat \([0-9]*\) .*/\1/p' $serial | tail -n 1; }
# goes_on: the guest counts further, and nothing has gone wrong in it.
goes_on() {
  said "beat $(($(beats) + 3)) "
  grep '^beat' $serial | tail -n 1 | grep -q ' 0.\{0,1\}$' || { tail -n 40 $serial; fail "$1: the guest complains"; }
  say "$1: $(grep '^beat' $serial | tail -n 1)"
}

boot
said "found all"
grep '^found' $serial
grep -q '^found cpus 2' $serial || fail "not two CPUs"
grep -q '^found pci 0000:00:00.0' $serial || fail "no PCI root"
grep -q '^found tables .*APIC.*DSDT.*FACP.*FACS.*MCFG' $serial || fail "tables are missing"
grep -q '^found sleep .*\[deep\]' $serial || fail "no sleep to RAM"
grep -q '^found pnp .*PNP0501' $serial || fail "no COM1"
goes_on boot

# Asleep through a reboot of the VMM.
hmp_says system_powerdown
hmp_until "info status" "VM status: paused (suspended)"
reboot_vmm on "paused (suspended)"
hmp_says system_wakeup
said "awake 0"
goes_on "suspend, cpr-reboot, wakeup"

transfer
goes_on cpr-transfer
execute
goes_on cpr-exec

hmp_says system_powerdown
status=0
wait "$vmm" || status=$?
[ "$status" = 0 ] || fail "power off: cpr-vmm ended with $status"
exec 3>&- 4<&-
