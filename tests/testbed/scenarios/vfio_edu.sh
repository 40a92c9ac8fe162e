# QEMU's edu device, by VFIO: a guest copies pages through it all the time, by DMA with an interrupt for each, over 20 transfers and 20 execs by group and container and by an iommufd; five of each with INTx, by either IOAPIC.
# Arguments: transfers and execs each, 20 if not given; those with INTx.
#: files vmm/cpr-vmm tests/guest/payload.elf
#: edu
#: seconds 900

with_msi=${1:-20} with_intx=${2:-5}
machine=$(echo "$machine" | sed 's/512M/128M/g')

# while_stopped MODE: the DMA that is under way ends while the guest does not run, its interrupt waits.
while_stopped() {
  hmp_says stop
  hmp_says "info status" "VM status: paused"
  check_counts "$1, stopped"
  $1 paused
  hmp_until cont ""  # refused until the handover is over, a moment after it shows that status
  copies_on "$1, stopped"
}

take_edu

# by_vfio INTERRUPT ROUNDS WORD...: boots a guest with these words for the device, and ends it after so many transfers and
# execs. INTERRUPT: msi, or the pin of its INTx.
by_vfio() {
  interrupt=$1 rounds=$2
  shift 2
  say "$interrupt: $*"
  words="$machine -serial file:$serial $*"
  rm -f $serial /dev/shm/ram
  start -kernel tests/guest/payload.elf -append "cpus=2 ws=4 edu=$interrupt"
  said "cpr-guest: running"
  copies_on boot
  for mode in transfer execute; do
    for round in $(seq "$rounds"); do
      $mode
      copies_on "$mode $round"
    done
    while_stopped $mode
    say "$mode: $(sed -n 's/^\(cpr-guest: .* edu .*\)\r$/\1/p' $serial | tail -n 1)"
  done
  quit_vmm
}

by_vfio msi "$with_msi" -device "vfio-pci,host=$edu"
by_vfio msi "$with_msi" -object iommufd,id=i0 -device "vfio-pci,host=$edu,iommufd=i0"
# Pin A in slot 6.
by_vfio 22 "$with_intx" -device "vfio-pci,host=$edu,addr=6"
by_vfio 22 "$with_intx" -machine kernel-irqchip=on -device "vfio-pci,host=$edu,addr=6"
