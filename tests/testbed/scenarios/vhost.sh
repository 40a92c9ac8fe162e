# A working Linux guest whose frames the host's kernel moves (vhost-net) goes through each mode; the kernel moves them all the time
# that the guest runs, and never while it stands still.
#: files vmm/cpr-vmm vmm/virtio/vhost_kernel_test tests/testbed/guest/worker
#: memory 3G
#: seconds 600

./vmm/virtio/vhost_kernel_test --gtest_brief=1
# shellcheck disable=SC2086
make_working_guest $disk_and_stream
add_disk_and_network vhost=on
words="$machine -serial file:$serial"

kernel_serves() { grep -q '^vhost-' /proc/[0-9]*/task/*/comm; }
# goes_on WHAT FROM: what the guest did since its line FROM.
goes_on() {
  works_on "$1"
  kernel_serves || fail "$1: the kernel does not serve the queues"
  say "$1: longest gap $(longest_gap "$2") ms"
}

boot
said "work 3 "
goes_on boot 0
for mode in transfer execute; do
  for round in 1 2 3; do
    from=$(work_lines)
    $mode
    goes_on "$mode $round" "$from"
  done
done
from=$(work_lines)
hmp_says stop
! kernel_serves || fail "stop: the kernel serves a guest that stands still"
hmp_says cont
goes_on "stop and cont" "$from"
from=$(work_lines)
reboot_vmm
goes_on cpr-reboot "$from"
quit_vmm
