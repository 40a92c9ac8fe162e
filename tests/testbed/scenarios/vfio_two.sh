# Two devices of the host's at once, an NVMe controller and a network card with a TCP stream, through transfers and execs: in two groups of a container, then by an iommufd.
#: files vmm/cpr-vmm tests/testbed/guest/worker
#: memory 3G
#: nvme 64M
#: e1000e
#: seconds 600

nvme=$(pci_of /sys/block/nvme0n1/device/device)
give_to_vfio "$nvme"
for interface in /sys/class/net/eth*; do
  card=$(pci_of "$interface/device")
  case $(basename "$(readlink "/sys/bus/pci/devices/$card/driver")") in
    e1000e) e1000e=$card ;;
    *) serve_stream "$(basename "$interface")" ;;
  esac
done
give_to_vfio "$e1000e"

# QEMU's e1000e loses what crosses into a page that lies elsewhere in the host's memory (docs/testbed.md): huge pages.
# More than the guest has: with as many, its mapping for the devices is refused (EFAULT). It seems that pages have to be
# moved out of what kho=on sets aside, where none may be pinned for long.
echo 400 >/proc/sys/vm/nr_hugepages
mkdir /tmp/huge
mount -t hugetlbfs none /tmp/huge
machine=$(echo "$machine" | sed 's|/dev/shm/ram|/tmp/huge/ram|')
make_working_guest disk /dev/nvme0n1 stream 10.0.0.1 7007

say "groups and container"
by_vfio_through_all -device "vfio-pci,host=$nvme" -device "vfio-pci,host=$e1000e"
say "iommufd"
by_vfio_through_all -object iommufd,id=i0 -device "vfio-pci,host=$nvme,iommufd=i0" \
  -device "vfio-pci,host=$e1000e,iommufd=i0,addr=9"
