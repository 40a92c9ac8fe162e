# A Linux guest with its RAM on a DAX device, at work on a disk, gets five new host kernels by cpr-reboot, one after the other: nothing is synced or unmounted, its clocks are right, and it notices nothing but the gaps.
# Arguments: how many new kernels.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: nvdimm 512M
#: nvme 64M
#: seconds 900

dax_device
machine=$(echo "$machine" | sed 's|mem-path=/dev/shm/ram,|mem-path=/dev/dax0.0,align=2M,|; s/512M/256M/g')
through_new_kernels "${1:-5}"
