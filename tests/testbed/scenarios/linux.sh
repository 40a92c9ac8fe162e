# A stock Linux kernel boots as a bzImage, finds CPUs, PCI and power states by ACPI, sleeps, and goes through each mode.
#: files vmm/cpr-vmm
#: memory 3G
#: seconds 900

serial=/tmp/serial
cmdline="console=ttyS0 panic=-1"

# The guest: says what it has found, then "beat N" and what went wrong since. The power button puts it to sleep the first
# time, and ends it the second.
mkdir -p /tmp/guest/bin /tmp/guest/proc /tmp/guest/sys /tmp/guest/dev
cp "$(readlink -f /proc/self/exe)" /tmp/guest/bin/busybox
cat >/tmp/guest/init <<'TXT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
pressed() { awk '{ print $1 }' /sys/firmware/acpi/interrupts/ff_pwr_btn; }
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
  echo "beat $beats $(cut -d' ' -f1 /proc/uptime) $(dmesg | grep -ciE 'soft lockup|hard lockup|rcu.*stall|unstable|hung task')"
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
chmod +x /tmp/guest/init
(cd /tmp/guest && find . | cpio -o -H newc >/tmp/guest.cpio 2>/dev/null)

# said TEXT: waits until the guest has said so on a line of its own, or the start of one.
said() {
  tries=0
  until grep -q "^$1" $serial 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { tail -n 40 $serial; fail "the guest does not say '$1'"; }
    sleep 0.2
  done
}
beats() { sed -n 's/^beat \([0-9]*\) .*/\1/p' $serial | tail -n 1; }
# goes_on: the guest counts further, and nothing has gone wrong in it.
goes_on() {
  said "beat $(($(beats) + 3)) "
  grep '^beat' $serial | tail -n 1 | grep -q ' 0.\{0,1\}$' || { tail -n 40 $serial; fail "$1: the guest complains"; }
  say "$1: $(grep '^beat' $serial | tail -n 1)"
}

words="-machine q35,memory-backend=ram0 -accel kvm -cpu host -smp 2 -m 512M -nodefaults -serial file:$serial"
words="$words -object memory-backend-file,id=ram0,size=512M,mem-path=/dev/shm/ram,share=on"
# start N WORD...: a VMM, whose QMP socket is /tmp/qmp.N.
start() {
  number=$1
  shift
  # shellcheck disable=SC2086
  start_vmm $words -qmp "unix:/tmp/qmp.$number,server=on,wait=off" "$@"
  vmm=$!
}

start 1 -kernel /share/kernel -initrd /tmp/guest.cpio -append "$cmdline"
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
hmp_says "migrate_set_parameter mode cpr-reboot"
hmp_says "migrate_set_capability x-ignore-shared on"
hmp_says "migrate -d file:/tmp/vm.state"
hmp_until "info status" "VM status: paused (postmigrate)"
quit_vmm
start 2 -incoming file:/tmp/vm.state
hmp_until "info status" "VM status: paused (suspended)"
hmp_says system_wakeup
said "awake 0"
goes_on "suspend, cpr-reboot, wakeup"

old=$vmm
start 3 -incoming unix:/tmp/main.sock \
  -incoming '{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"/tmp/cpr.sock"}}'
hmp_until "info status" "VM status: paused (inmigrate)"
cat >/tmp/transfer <<'TXT'
{"execute":"qmp_capabilities"}
{"execute":"migrate-set-parameters","arguments":{"mode":"cpr-transfer"}}
{"execute":"migrate","arguments":{"channels":[{"channel-type":"main","addr":{"transport":"socket","type":"unix","path":"/tmp/main.sock"}},{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"/tmp/cpr.sock"}}]}}
TXT
debian socat -t 5 - UNIX-CONNECT:/tmp/qmp.2 </tmp/transfer
hmp_until "info status" "VM status: running"
kill "$old"
goes_on cpr-transfer

hmp_says "migrate_set_parameter mode cpr-exec"
hmp_says "migrate_set_parameter cpr-exec-args ./vmm/cpr-vmm -monitor stdio $words -incoming memfd:"
hmp_says "migrate -d memfd:"
until tr '\0' ' ' <"/proc/$vmm/cmdline" | grep -q -e '-incoming memfd:'; do sleep 0.1; done
hmp_until "info status" "VM status: running"
goes_on cpr-exec

hmp_says system_powerdown
status=0
wait "$vmm" || status=$?
[ "$status" = 0 ] || fail "power off: cpr-vmm ended with $status"
exec 3>&- 4<&-
