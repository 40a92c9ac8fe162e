# Our KVM tests where KVM has hardware under it: real SVM with TSC offsets, nested state, a master clock.
# Arguments: a command in place of the tests.
#: files tests/kvm/wrappers_test tests/kvm/vcpu_state_test tests/kvm/vm_state_test tests/kvm/clock_test tests/kvm/sections_test
#: files tests/kvm/timer_test tests/kvm/machine_test tests/kvm/handover_test
#: files tests/guest/payload_test tests/guest/withhold_test tests/guest/payload.elf vmm/cpr-vmm
#: seconds 900

if [ $# != 0 ]; then
  exec "$@"
fi
for test in wrappers vcpu_state vm_state clock sections timer; do
  ./tests/kvm/${test}_test
done
# Left out: 64 vCPUs, which take too long in software.
./tests/guest/payload_test '--gtest_filter=-*Sixty*'
./tests/guest/withhold_test
./tests/kvm/machine_test '--gtest_filter=-Largest*'
./tests/kvm/handover_test '--gtest_filter=*Vcpus1*:*Vcpus2*:QemuScript*:HumanMonitor*'
