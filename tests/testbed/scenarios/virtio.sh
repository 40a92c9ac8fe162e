# A Linux guest with virtio disks, guest-agent port and random numbers works on them, through each mode and asleep.
#: files vmm/cpr-vmm
#: memory 3G
#: seconds 900

port=/tmp/port.sock

# The guest works on a disk (writes, syncs, reads back past its cache, compares), answers what its port is told, and says
# "round N" and what went wrong since. The power button puts it to sleep.
make_guest <<'TXT'
echo "found disk $(cat /sys/block/vda/size) $(cat /sys/block/vda/serial)"
echo "found read-only $(cat /sys/block/vda/ro) $(cat /sys/block/vdb/ro)"
echo "found rng $(cat /sys/class/misc/hw_random/rng_current)"
for port in /sys/class/virtio-ports/*; do
  echo "found port $(cat "$port/name")"
  mknod /dev/agent c $(tr ':' ' ' <"$port/dev")
done
grep -q 'Old-Only' /dev/vdb && echo "found text"
echo "found all"
# Reads nothing, and does not wait, while nobody is connected.
(exec 3<>/dev/agent && while true; do if read -r word <&3; then echo "heard $word" >&3; else sleep 0.2; fi; done) &
round=0
slept=0
while true; do
  if [ "$slept" != "$(pressed)" ]; then
    slept=$((slept + 1))
    echo mem >/sys/power/state || echo "FAIL sleep"
    echo "awake $slept"
  fi
  round=$((round + 1))
  block=$((round % 16))
  dd if=/dev/hwrng of=/sample bs=512 count=8 iflag=fullblock 2>/dev/null
  i=0
  while [ $i -lt 64 ]; do cat /sample; i=$((i + 1)); done >/written
  dd if=/written of=/dev/vda bs=256k seek=$block conv=notrunc,fsync oflag=direct 2>/dd || echo "FAIL write $(cat /dd)"
  sync
  dd if=/dev/vda of=/back bs=256k skip=$block count=1 iflag=direct 2>/dd || echo "FAIL read $(cat /dd)"
  cmp -s /written /back || echo "FAIL compare $round"
  complaints | sed 's/^/FAIL /'
  echo "round $round"
done
TXT

# answers WORD: the guest hears it by the connection that there is, and says so.
answers() {
  echo "$1" >&6
  port_answers "heard $1"
  kill -0 "$client" || fail "the port's client was cut off"
}
# goes_on MODE: the disk's rounds go on, the port answers, and nothing has gone wrong.
goes_on() {
  said "round $(($(grep -c '^round' $serial) + 3))"
  answers "$1"
  ! grep FAIL $serial || fail "$1: see above"
  say "$1: $(grep '^round' $serial | tail -n 1)"
}

# falls_asleep: the drivers have reset their devices then.
falls_asleep() {
  hmp_says system_powerdown
  hmp_until "info status" "VM status: paused (suspended)"
}
# wakes N: for the Nth time; the drivers set up their devices again.
wakes() {
  hmp_says system_wakeup
  said "awake $1"
}

truncate -s 8M /tmp/disk.raw
{ echo Old-Only && head -c 4087 /dev/zero; } >/tmp/text.raw
words="$words -drive if=none,id=d0,format=raw,file=/tmp/disk.raw -device virtio-blk-pci,drive=d0,serial=cpr"
words="$words -blockdev file,node-name=d1,filename=/tmp/text.raw,read-only=on -device virtio-blk-pci,drive=d1,addr=8"
words="$words -chardev socket,id=qga0,path=$port,server=on,wait=off"
words="$words -device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0 -device virtio-rng-pci"

boot
said "found all"
grep '^found' $serial
grep -q '^found disk 16384 cpr' $serial || fail "not the disk"
grep -q '^found read-only 0 1' $serial || fail "read-only is not where it should be"
grep -q '^found rng virtio_rng' $serial || fail "no random numbers"
grep -q '^found port org.qemu.guest_agent.0' $serial || fail "no port"
grep -q '^found text' $serial || fail "the second disk is not what it should be"
connect_port $port
goes_on boot
transfer
goes_on cpr-transfer
execute
goes_on cpr-exec

# A new VMM opens everything anew, and the port's client comes again.
migrate_to_file /tmp/vm.state
disconnect_port
start -incoming file:/tmp/vm.state
hmp_until "info status" "VM status: running"
connect_port $port
goes_on cpr-reboot

falls_asleep
wakes 1
goes_on "asleep"
falls_asleep
transfer "paused (suspended)"
wakes 2
goes_on "asleep, cpr-transfer"
falls_asleep
migrate_to_file /tmp/vm.state
disconnect_port
start -incoming file:/tmp/vm.state
hmp_until "info status" "VM status: paused (suspended)"
connect_port $port
wakes 3
goes_on "asleep, cpr-reboot"
quit_vmm
