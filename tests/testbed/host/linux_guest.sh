# shellcheck shell=sh
# A Linux guest for scenarios: the host's own kernel, an initramfs of busybox, and words to follow it by what it says on
# its serial line, which is the file $serial.

serial=/tmp/serial
vmm_number=0

# make_guest [PROGRAM...]: /tmp/guest.cpio with busybox, the programs in /bin, and stdin as what PID 1 does once all is
# mounted.
make_guest() {
  mkdir -p /tmp/guest/bin /tmp/guest/proc /tmp/guest/sys /tmp/guest/dev
  cp "$(readlink -f /proc/self/exe)" /tmp/guest/bin/busybox
  for program in "$@"; do cp "$program" /tmp/guest/bin/; done
  cp /testbed/complaints.awk /tmp/guest/
  cat - >/tmp/guest/main
  cat >/tmp/guest/init <<'TXT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
echo "booted"
# How often the power button was pressed.
pressed() { awk '{ print $1 }' /sys/firmware/acpi/interrupts/ff_pwr_btn; }
# What the kernel has complained of.
complaints() { dmesg | awk -f /complaints.awk; }
. /main
TXT
  chmod +x /tmp/guest/init
  (cd /tmp/guest && find . | cpio -o -H newc >/tmp/guest.cpio 2>/dev/null)
}

# said TEXT: waits until the guest has said so at the start of a line.
said() { await "the guest does not say '$1'" has_said "$1"; }
has_said() { grep -q "^$1" $serial 2>/dev/null; }

# The machine, but for what a scenario adds in $words: 2 vCPUs, 512 MiB in a named file.
machine="-machine q35,memory-backend=ram0 -accel kvm -cpu host -smp 2 -m 512M -nodefaults"
machine="$machine -object memory-backend-file,id=ram0,size=512M,mem-path=/dev/shm/ram,share=on"
words="$machine -serial file:$serial"

# start WORD...: the next VMM: number $vmm_number, process $vmm. Its QMP socket is /tmp/qmp.$vmm_number; the hmp
# functions speak to it.
start() {
  vmm_number=$((vmm_number + 1))
  # shellcheck disable=SC2086
  start_vmm $words -qmp "unix:/tmp/qmp.$vmm_number,server=on,wait=off" "$@"
  vmm=$!
}
# boot [WORD...]: the guest, with these words for its kernel.
kernel_words="console=ttyS0 panic=-1"
boot() { start -kernel /share/kernel -initrd /tmp/guest.cpio -append "$kernel_words${1:+ $1}"; }

# The modes, as one types them: transfer [STATUS], execute [STATUS]. Each returns when the new VMM says that it is
# "running", or what else it should say.
transfer() {
  old=$vmm
  rm -f /tmp/main.sock /tmp/cpr.sock
  start -incoming unix:/tmp/main.sock \
    -incoming '{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"/tmp/cpr.sock"}}'
  hmp_until "info status" "VM status: paused (inmigrate)"
  ask_for_transfer $((vmm_number - 1))
  hmp_until "info status" "VM status: ${1:-running}"
  kill "$old"
}
# ask_for_transfer NUMBER: has that VMM give its guest to the one that waits at those sockets.
ask_for_transfer() {
  cat >/tmp/transfer <<'TXT'
{"execute":"qmp_capabilities"}
{"execute":"migrate-set-parameters","arguments":{"mode":"cpr-transfer"}}
{"execute":"migrate","arguments":{"channels":[{"channel-type":"main","addr":{"transport":"socket","type":"unix","path":"/tmp/main.sock"}},{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"/tmp/cpr.sock"}}]}}
TXT
  debian socat -t 5 - "UNIX-CONNECT:/tmp/qmp.$1" </tmp/transfer
}

execute() {
  hmp_says "migrate_set_parameter mode cpr-exec"
  qmp="-qmp unix:/tmp/qmp.$vmm_number,server=on,wait=off"
  hmp_says "migrate_set_parameter cpr-exec-args ./vmm/cpr-vmm -monitor stdio $words $qmp -incoming memfd:"
  hmp_says "migrate -d memfd:"
  await "cpr-exec: the program was not replaced" runs "-incoming memfd:"
  hmp_until "info status" "VM status: ${1:-running}"
}
# runs WORDS: they are in the VMM's command line.
runs() { tr '\0' ' ' <"/proc/$vmm/cmdline" | grep -q -e "$1"; }

# save_to_file FILE [off]: cpr-reboot's first half; off: the RAM goes into the file, too.
save_to_file() {
  hmp_says "migrate_set_parameter mode cpr-reboot"
  hmp_says "migrate_set_capability x-ignore-shared ${2:-on}"
  hmp_says "migrate -d file:$1"
  hmp_until "info status" "VM status: paused (postmigrate)"
}
migrate_to_file() {
  save_to_file "$@"
  quit_vmm
}

# reboot_vmm [off [STATUS]]: both halves.
reboot_vmm() {
  migrate_to_file /tmp/vm.state "${1:-on}"
  start -incoming file:/tmp/vm.state
  hmp_until "info status" "VM status: ${2:-running}"
}

# connect_port PATH: a client of a chardev's socket, process $client, connected until disconnect_port or until it is hung
# up on. Words go in by fd 6; what comes is in /tmp/answers.
connect_port() {
  rm -f /tmp/words
  mkfifo /tmp/words
  : >/tmp/answers
  debian socat - "UNIX-CONNECT:$1" </tmp/words >/tmp/answers &
  client=$!
  exec 6>/tmp/words
}
disconnect_port() {
  exec 6>&-
  wait "$client" || true
}
# port_answers TEXT: by that connection.
port_answers() { await "the port does not answer '$1'" grep -q "$1" /tmp/answers; }

# install_agent: a real qemu-guest-agent, with the libraries that it loads, for make_working_guest.
install_agent() {
  debian true
  for file in /usr/sbin/qemu-ga $(debian ldd /usr/sbin/qemu-ga | grep -o '/[^ ]*'); do
    mkdir -p "/tmp/guest/${file%/*}"
    cp -L "/debian$file" "/tmp/guest$file"
  done
}
# Its port, and the words to it.
add_agent_port() {
  machine="$machine -chardev socket,id=qga0,path=/tmp/qga.sock,server=on,wait=off"
  machine="$machine -device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"
}
# agent_answers COMMAND ANSWER: the answer is what a line begins with. The connection stays open until it is there: its
# end would be the port's.
agent_answers() {
  connect_port /tmp/qga.sock
  echo "{\"execute\":\"$1\"}" >&6
  port_answers "^$2"
  disconnect_port
}
asleep="paused (suspended)"
# The guest suspends itself to RAM.
suspend() {
  echo '{"execute":"guest-suspend-ram"}' | debian ncat --send-only -U /tmp/qga.sock
  hmp_until "info status" "VM status: $asleep"
}
# wake WHAT: it works on.
wake() {
  hmp_says system_wakeup
  hmp_says "info status" "VM status: running"
  works_on "$1"
  say "$1: awake and at work"
}
# take_in FILE [STATUS]: cpr-reboot's second half, as the documentation has it, in a VMM with -incoming defer.
take_in() {
  hmp_says "info status" "VM status: paused (inmigrate)"
  hmp_says "migrate_set_parameter mode cpr-reboot"
  hmp_says "migrate_set_capability x-ignore-shared on"
  hmp_says "migrate_incoming file:$1"
  hmp_until "info status" "VM status: ${2:-running}"
}
# The guest's wall clock, as its agent tells it, is the host's, which a kernel reads anew in whole seconds. The answer is of
# some moment between asking and having it, which may be long on a busy machine.
clock_is_right() {
  asked=$(date +%s)
  agent_answers guest-get-time '{"return": [0-9]'
  answered=$(date +%s)
  guest=$(sed -n 's/{"return": \([0-9]*\)[0-9]\{9\}}.*/\1/p' /tmp/answers)
  { [ $((asked - guest)) -le 2 ] && [ $((guest - answered)) -le 2 ]; } ||
    fail "the guest's clock is $((asked - guest)) s behind, and $((answered - asked)) s were between asking it and its answer"
}

# make_working_guest [WORD...]: a guest that works all the time (tests/testbed/guest/worker.cc, among the scenario's files,
# with these words), its kernel's complaints watched.
make_working_guest() {
  make_guest tests/testbed/guest/worker <<TXT
if [ -e /sys/class/net/eth0 ]; then
  ip addr add 10.0.0.2/24 dev eth0
  ip link set eth0 up
  # A card takes its time, a minute at most.
  looks=0
  until [ "\$(cat /sys/class/net/eth0/carrier)" = 1 ]; do
    looks=\$((looks + 1))
    [ \$looks -lt 600 ] || { echo "bad: eth0 has no carrier" && break; }
    sleep 0.1
  done
fi
if [ -e /usr/sbin/qemu-ga ]; then
  mkdir -p /run /var/run
  qemu-ga --method=virtio-serial --path="\$(echo /dev/vport*p1)" --statedir=/run &
fi
worker $* &
while sleep 1; do
  complaints | sed 's/^/bad: /'
done
TXT
}
# The other end of its network, on the host's interface $1.
serve_stream() {
  ip addr add 10.0.0.1/24 dev "$1"
  ip link set "$1" up
  debian socat TCP-LISTEN:7007,reuseaddr,fork EXEC:cat &
}
# A disk and a network for it, and the guest's words for them.
disk_and_stream="disk /dev/vda stream 10.0.0.1 7007"
add_disk_and_network() {
  truncate -s 8M /tmp/disk.raw
  debian /usr/bin/ip tuntap add dev tap0 mode tap
  serve_stream tap0
  machine="$machine -drive if=none,id=d0,format=raw,file=/tmp/disk.raw -device virtio-blk-pci,drive=d0"
  machine="$machine -netdev tap,id=n0,ifname=tap0,script=no,downscript=no${1:+,$1} -device virtio-net-pci,netdev=n0"
}

work_lines() { grep -c '^work ' $serial || true; }
# Of the last line that is whole. The kernel may have written behind it, before its end.
work_done() { sed -n 's/^work .* disk \([0-9]*\) stream \([0-9]*\)[^0-9].*/\1 \2/p' $serial | tail -n 1; }
# moved_on DISK STREAM: what was under way then has got further.
moved_on() {
  # shellcheck disable=SC2046
  set -- "$@" $(work_done)
  { [ "$1" = 0 ] || [ "$3" -gt "$1" ]; } && { [ "$2" = 0 ] || [ "$4" -gt "$2" ]; }
}
# works_on WHAT: the guest works on, at all that it does, and nothing has gone wrong in it.
works_on() {
  before=$(work_done)
  said "work $(($(work_lines) + 2)) "
  # shellcheck disable=SC2086
  await "$1: disk and stream are still at $before" moved_on $before
  nothing_is_bad "$1"
}
nothing_is_bad() { ! grep '^bad' $serial || fail "$1: see above"; }
# by_vfio_through_all WORD...: a guest with these words for devices of the host, from boot to quit.
by_vfio_through_all() {
  words="$machine -serial file:$serial $*"
  rm -f $serial
  boot
  said "work 4 "
  hmp_says "migrate_set_parameter mode cpr-reboot"
  hmp_says "migrate -d file:/tmp/vm.state" "Error: VFIO device only supports cpr-reboot for runstate suspended"
  for mode in transfer execute; do
    from=$(work_lines)
    for round in 1 2 3 4 5; do
      $mode
      works_on "$mode $round"
    done
    say "$mode, five times: longest gap $(longest_gap "$from") ms"
  done
  quit_vmm
}
# The longest gap that the guest saw since line N, in ms.
longest_gap() { awk -v from="$1" '/^work/ && $2 > from { gap = $6 > gap ? $6 : gap } END { print gap / 1000 }' $serial; }
# through_new_kernels COUNT: a guest at work on a disk goes by cpr-reboot from one host kernel to the next, so often;
# what has to survive is on /dev/nvme0n1, and nothing is synced or unmounted. $machine is all but its disk and its port.
through_new_kernels() {
  machine="$machine -drive if=none,id=d0,format=raw,file=/mnt/disk.raw -device virtio-blk-pci,drive=d0"
  add_agent_port
  words="$machine -serial file:$serial"
  [ "$stage" != 1 ] || mke2fs_journaled /dev/nvme0n1
  mount /dev/nvme0n1 /mnt
  if [ "$stage" = 1 ]; then
    truncate -s 8M /mnt/disk.raw
    install_agent
    make_working_guest disk /dev/vda
    boot
    said "work 4 "
  else
    cp /mnt/serial $serial
    from=$(work_lines)
    start -incoming defer
    take_in /mnt/vm.state
    works_on "kernel $stage"
    say "kernel $stage: $(work_done | cut -d' ' -f1) blocks so far; longest gap $(longest_gap "$from") ms"
  fi
  clock_is_right
  if [ "$stage" -le "$1" ]; then
    migrate_to_file /mnt/vm.state
    keep $serial /mnt/serial
    next_kernel
  fi
  quit_vmm
}
