# shellcheck shell=sh
# What scenarios share. Busybox's sh; sourced in front of each.

# 1, and after each next_kernel one more.
stage=$(sed -n 's/.*testbed\.stage=\([0-9]*\).*/\1/p' /proc/cmdline)
stage=${stage:-1}
export CPR_REQUIRE_KVM=1

say() { printf 'scenario: %s\n' "$*"; }

# What a guest that stands still waits for: the host's ticks, the exits of each VM, when its vCPUs' timers go off.
show_timers() {
  grep LOC /proc/interrupts
  for vm in /sys/kernel/debug/kvm/*-*; do
    [ ! -e "$vm/exits" ] || echo "exits $(cat "$vm/exits") by interrupts $(cat "$vm/irq_exits") injected $(cat "$vm/irq_injections")"
  done
  grep -e '^now' /proc/timer_list
  grep -A 1 apic_timer_fn /proc/timer_list || echo "no vCPU's timer is set"
}

# Words for a Linux guest whose kernel has begun and never came to its PID 1 (lib/main.py); none for any other.
not_booted() {
  if grep -q "Linux version" "${serial:-/nowhere}" 2>/dev/null && ! grep -q "^booted" "$serial"; then
    echo "the guest does not boot: "
  fi
}

fail() {
  if [ -e "${serial:-}" ]; then
    tail -n 200 "$serial"
    show_timers
    sleep 1  # to see what moves
    show_timers
  fi
  say "FAIL: $*"
  printf '%s%s\n' "$(not_booted)" "$*" >/tmp/why
  exit 1
}

skip() {
  printf '%s\n' "$*" >/tmp/why
  exit 77
}

# await WHY COMMAND...: until the command succeeds. After two minutes, or as many tries as $patience says, WHY is the
# failure.
await() {
  why=$1
  shift
  tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ $tries -lt "${patience:-600}" ] || fail "$why"
    sleep 0.2
  done
}

# median: of the numbers on stdin, one a line; of two in the middle the greater.
median() { sort -n | awk '{ number[NR] = $1 } END { print number[int(NR / 2) + 1] }'; }

# debian COMMAND...: runs a program of the Debian root (ndctl, kexec, QEMU). What it writes there is lost with the host;
# /share, /dev, /tmp and the like are the host's own.
debian() {
  if [ ! -d /debian/usr ]; then
    mkdir -p /debian /run/debian.lower /run/debian.upper
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose debian /run/debian.lower
    mount -t tmpfs tmpfs /run/debian.upper
    mkdir /run/debian.upper/upper /run/debian.upper/work
    mount -t overlay -o lowerdir=/run/debian.lower,upperdir=/run/debian.upper/upper,workdir=/run/debian.upper/work \
      overlay /debian
    mkdir -p /debian/share /debian/checkout
    for folder in /proc /sys /dev /tmp /share /checkout; do mount --rbind $folder /debian$folder; done
  fi
  chroot /debian "$@"
}

# Makes a DAX device of the nvdimm, or finds the one that an earlier kernel made. Its path is /dev/dax0.0.
dax_device() {
  if [ ! -e /dev/dax0.0 ]; then
    debian ndctl create-namespace -f -e namespace0.0 -m devdax -a 2M >/dev/null
  fi
  [ -c /dev/dax0.0 ] || fail "no /dev/dax0.0"
}

# mke2fs_journaled [OPTION...] DISK: a file system that is whole after a kexec without an unmount.
mke2fs_journaled() { debian /usr/sbin/mke2fs -q -t ext4 "$@"; }
# keep FILE COPY: the copy outlives a kexec without an unmount.
keep() {
  cp "$1" "$2"
  sync "$2"
}

# pci_of LINK: the address of the PCI function that a device's link in /sys leads to, or that is above it.
pci_of() { readlink -f "$1" | grep -o '[0-9a-f]\{4\}:[0-9a-f]\{2\}:[0-9a-f]\{2\}\.[0-7]' | tail -n 1; }

# give_to_vfio ADDRESS: takes a PCI device away from the host's driver.
give_to_vfio() {
  device=/sys/bus/pci/devices/$1
  echo vfio-pci >"$device/driver_override"
  [ ! -e "$device/driver" ] || echo "$1" >"$device/driver/unbind"
  echo "$1" >/sys/bus/pci/drivers_probe
  [ "$(basename "$(readlink "$device/driver")")" = vfio-pci ] || fail "vfio-pci does not take $1"
}

# Starts the same kernel again without a reset, as an update of the host does, and the scenario with it: what is only in
# memory is gone then. Does not return.
next_kernel() {
  command=$(sed 's/ testbed\.stage=[0-9]*//' /proc/cmdline)
  debian kexec --kexec-file-syscall --load /share/kernel --initrd=/share/initrd \
    --command-line="$command testbed.stage=$((stage + 1))"
  say "kexec"
  debian kexec --exec
  fail "kexec came back"
}

# start_vmm WORD...: cpr-vmm with its human monitor to itself, for the hmp functions. $under: what executes it, if anything.
under=
start_vmm() {
  rm -f /tmp/monitor.in /tmp/monitor.out
  mkfifo /tmp/monitor.in /tmp/monitor.out
  # shellcheck disable=SC2086
  $under ./vmm/cpr-vmm -monitor stdio "$@" </tmp/monitor.in >/tmp/monitor.out &
  exec 3>/tmp/monitor.in 4</tmp/monitor.out
}

# Types a command; what it answers, its lines joined by blanks, is in $answer. The version, asked for behind it, is the end.
hmp() {
  printf '%s\ninfo version\n' "$1" >&3
  answer=
  while IFS= read -r line <&4; do
    while [ "$line" != "${line#'(cpr-vmm) '}" ]; do line=${line#'(cpr-vmm) '}; done
    case $line in
      *'(cpr-vmm, speaks QEMU '*) return ;;
      '' | *" monitor - type 'help'"*) ;;
      *) answer=$answer${answer:+ }$line ;;
    esac
  done
  fail "$1: the VMM has ended"
}

# hmp_says COMMAND [ANSWER]: it answers this, or nothing.
hmp_says() {
  hmp "$1"
  [ "$answer" = "${2:-}" ] || fail "$1: '$answer', not '${2:-}'"
}

# hmp_until COMMAND ANSWER: asks again and again, for two minutes.
hmp_until() {
  began=$(uptime_seconds)
  hmp "$1"
  while [ "$answer" != "$2" ]; do
    if [ $(($(uptime_seconds) - began)) -gt 120 ]; then
      last=$answer
      hmp "info migrate"
      fail "$1: '$last', not '$2'; info migrate: $answer"
    fi
    hmp "$1"
  done
}
uptime_seconds() { cut -d. -f1 /proc/uptime; }

quit_vmm() {
  echo quit >&3
  cat <&4 >/dev/null
  exec 3>&- 4<&-
}

# await_guest_ok FILE N: until the guest that checks itself has said N times on its serial line that all is well.
await_guest_ok() {
  tail -n +1 -f "$1" | (
    left=$2
    while [ "$left" != 0 ] && read -r line; do
      case $line in
        *' FAIL '*) exit 1 ;;
        *' s OK '*) left=$((left - 1)) ;;
      esac
    done
  ) || fail "the guest: $(grep -m1 ' FAIL ' "$1")"
  tail -n 1 "$1"
}

# The guest's age in seconds, by its last line.
guest_seconds() { sed -n 's/.*cpr-guest: \([0-9]*\) s .*/\1/p' "$1" | tail -n 1; }
