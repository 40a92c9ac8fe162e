# The new VMM, or the old one once it may, is killed in each phase of a handover: the guest goes on in the other one, and so does its device (edu, by VFIO) with all its DMAs and interrupts.
# Arguments: others for kill_test.
#: files tests/kvm/kill_test tests/driver/cpr-vmm-faulty tests/guest/payload.elf vmm/cpr-vmm
#: edu
#: seconds 900

take_edu
export CPR_RIG_GUEST_WORDS="edu=msi"
# Where a guest goes on, that is.
cases='*transfer_new_at*:*transfer_old_at_commit:*transfer_old_at_resume:*exec_new_at*:*exec_old_at_commit'
cases="$cases:*NewVmmWhileTheOldOneSaves:*NobodyButExecFails"

say "group and container"
CPR_RIG_WORDS="-device vfio-pci,host=$edu" ./tests/kvm/kill_test "--gtest_filter=$cases" "$@"
say "iommufd"
CPR_RIG_WORDS="-object iommufd,id=i0 -device vfio-pci,host=$edu,iommufd=i0" ./tests/kvm/kill_test "--gtest_filter=$cases" "$@"
