# An NVMe controller of the host's, by VFIO, carries a guest's verified writes through transfers and execs: by group and container, then by an iommufd.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: nvme 64M
#: seconds 600

nvme=$(pci_of /sys/block/nvme0n1/device/device)
give_to_vfio "$nvme"
make_working_guest disk /dev/nvme0n1

say "group and container"
by_vfio_through_all -device "vfio-pci,host=$nvme"
say "iommufd"
by_vfio_through_all -object iommufd,id=i0 -device "vfio-pci,host=$nvme,iommufd=i0"
