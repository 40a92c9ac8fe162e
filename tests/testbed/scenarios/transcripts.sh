# What the documentation types into the monitors, in each mode, with a Linux guest; each answer word for word.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: seconds 600

make_working_guest
cd /tmp
ln -s /checkout/vmm .
status_is() { hmp_says "info status" "VM status: $1"; }
status_comes_to() { hmp_until "info status" "VM status: $1"; }
refused() { hmp_says "$1" "Error: $2"; }

# qmp N JSON ANSWER: VMM N answers this.
qmp() {
  printf '{"execute":"qmp_capabilities"}\n%s\n' "$2" >/tmp/order
  said=$(debian socat -t 5 - "UNIX-CONNECT:/tmp/qmp.$1" </tmp/order | tr -d '\r' | grep -v '"event"' | tail -n 1)
  [ "$said" = "$3" ] || fail "$2: '$said', not '$3'"
}
running='{"return": {"running": true, "status": "running"}}'
postmigrate='{"return": {"running": false, "status": "postmigrate"}}'
done='{"return": {}}'

say "cpr-reboot"
boot
said "work 2 "
status_is running
hmp_says "migrate_set_parameter mode cpr-reboot"
hmp_says "migrate_set_capability x-ignore-shared on"
hmp_says "migrate -d file:vm.state"
status_comes_to "paused (postmigrate)"
hmp_says "migrate -d file:vm.state" "Error: Can't migrate the vm that was paused due to previous migration"
quit_vmm
start -incoming defer
status_is "paused (inmigrate)"
hmp_says "migrate_set_parameter mode cpr-reboot"
hmp_says "migrate_set_capability x-ignore-shared on"
hmp_says "migrate_incoming file:vm.state"
status_comes_to running
works_on "cpr-reboot"

say "cpr-exec, by a wrapper script, too"
hmp_says "migrate_set_parameter mode cpr-exec"
refused "migrate -d file:vm.state" "cpr-exec mode requires setting cpr-exec-command"
printf '#!/bin/sh\nexec "$@"\n' >wrapper
chmod +x wrapper
for prefix in "" "./wrapper "; do
  rm -f vm.state
  hmp_says "migrate_set_parameter mode cpr-exec"
  hmp_says "migrate_set_parameter cpr-exec-args $prefix./vmm/cpr-vmm -monitor stdio $words -qmp unix:/tmp/qmp.$vmm_number,server=on,wait=off -incoming file:vm.state"
  hmp_says "migrate -d file:vm.state"
  await "cpr-exec: the program was not replaced" runs "-incoming file:vm.state"
  status_comes_to running
  works_on "${prefix}cpr-exec"
done

say "cpr-transfer"
cpr='{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"cpr.sock"}}'
main='{"channel-type":"main","addr":{"transport":"socket","type":"inet","host":"0","port":"44444"}}'
mode='{"execute":"migrate-set-parameters","arguments":{"mode":"cpr-transfer"}}'
# arrive WORD...: the new VMM is there, the old one is number $vmm_number - 1, process $old.
arrive() {
  old=$vmm
  start "$@" -incoming "$cpr"
  status_is "paused (inmigrate)"
}
arrived() {
  status_comes_to running
  qmp $((vmm_number - 1)) '{"execute":"query-status"}' "$postmigrate"
  qmp "$vmm_number" '{"execute":"query-status"}' "$running"
  qmp $((vmm_number - 1)) '{"execute":"quit"}' "$done"
  wait "$old"
  works_on "$1"
}
arrive -incoming tcp:0:44444
qmp $((vmm_number - 1)) "$mode" "$done"
qmp $((vmm_number - 1)) "{\"execute\":\"migrate\",\"arguments\":{\"channels\":[$main,$cpr]}}" "$done"
arrived "cpr-transfer"

arrive -incoming defer
qmp $((vmm_number - 1)) "$mode" "$done"
qmp $((vmm_number - 1)) "{\"execute\":\"migrate\",\"arguments\":{\"channels\":[$main,$cpr]}}" "$done"
qmp "$vmm_number" '{"execute":"migrate-incoming","arguments":{"uri":"tcp:0:44444"}}' "$done"
arrived "cpr-transfer, -incoming defer"
quit_vmm

say "what is refused: the guest runs on"
rm -f $serial
words="-machine q35,memfd-alloc=off -accel kvm -cpu host -smp 2 -m 512M -nodefaults -serial file:$serial"
boot
said "work 2 "
hmp_says "migrate_set_parameter cpr-exec-args ./vmm/cpr-vmm -incoming file:vm.state"
hmp_says "migrate_set_parameter mode cpr-exec"
private="Memory region pc.ram is not compatible with CPR. share=on is required for memory-backend objects, and aux-ram-share=on is required."
refused "migrate -d file:vm.state" "$private"
refused "migrate -d tcp:0:44444" \
  "tcp:0:44444 cannot be used with cpr-exec: it is a stream, and the old program is gone before the new one reads; use memfd: or file:"
hmp_says "migrate_set_parameter mode cpr-transfer"
refused "migrate -d tcp:0:44444" "missing 'cpr' migration channel"
status_is running
works_on "refusals"
quit_vmm
