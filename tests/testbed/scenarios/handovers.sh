# Ten cpr-transfers, then ten cpr-execs in the same process: a Linux guest at work on CPUs, disk and network, and a client of its serial port, notice nothing.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: seconds 600

# shellcheck disable=SC2086
make_working_guest $disk_and_stream
add_disk_and_network

still_connected() { kill -0 "$client" || fail "$1: the serial port's client was cut off"; }

words="$machine -serial unix:/tmp/serial.sock,server=on,wait=off"
boot
await "no serial socket" test -S /tmp/serial.sock
debian socat -u UNIX-CONNECT:/tmp/serial.sock OPEN:$serial,creat,append &
client=$!
said "work 4 "
say "undisturbed: longest gap $(longest_gap 2) ms"

for mode in transfer execute; do
  from=$(work_lines)
  process=$vmm
  for round in 1 2 3 4 5 6 7 8 9 10; do
    $mode
    works_on "$mode $round"
    still_connected "$mode $round"
  done
  [ $mode = transfer ] || [ "$vmm" = "$process" ] || fail "cpr-exec: another process"
  say "$mode, ten times: longest gap $(longest_gap "$from") ms"
done
# A line that was lost or doubled would break the count.
awk '/^work/ && $2 != ++line { print "bad: line", $2, "is", line; exit 1 }' $serial || fail "the serial line lost or doubled output"
quit_vmm
