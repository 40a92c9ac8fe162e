# A working Linux guest goes through each mode, with KVM's own PIC, IOAPIC and PIT, then with the split irqchip; cpr-reboot with shared and with copied RAM.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: seconds 600

# shellcheck disable=SC2086
make_working_guest $disk_and_stream
add_disk_and_network

for irqchip in on split; do
  rm -f $serial
  machine=$(echo "$machine" | sed "s/q35[^ ]*/q35,memory-backend=ram0,kernel-irqchip=$irqchip/")
  words="$machine -serial file:$serial"
  boot
  said "work 3 "
  for step in transfer execute "reboot_vmm on" "reboot_vmm off"; do
    from=$(work_lines)
    $step
    works_on "kernel-irqchip=$irqchip, $step"
    say "kernel-irqchip=$irqchip, $step: longest gap $(longest_gap "$from") ms"
  done
  quit_vmm
  rm -f /tmp/vm.state
done
