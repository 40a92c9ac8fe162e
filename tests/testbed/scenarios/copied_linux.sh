# A Linux guest whose RAM cannot stay in place (anonymous, private), at work on a disk, gets a new host kernel by cpr-reboot, its RAM copied into the state: nothing is synced or unmounted, its clocks are right, and it notices nothing but the gap.
# Arguments: how many new kernels, one after the other.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: nvme 512M
#: seconds 900

machine="-machine q35,memory-backend=ram0 -accel kvm -cpu host -smp 2 -m 256M -nodefaults"
machine="$machine -object memory-backend-ram,id=ram0,size=256M,share=off"
through_new_kernels "${1:-1}"
