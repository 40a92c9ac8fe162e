#ifndef VMM_VFIO_HOST_DEVICE_H_
#define VMM_VFIO_HOST_DEVICE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace cpr {

// Where a PCI function of the host is found by VFIO. A plain value.
struct VfioHostDevice {
  std::string address;  // "0000:00:04.0"
  uint32_t group = 0;   // of its IOMMU: /dev/vfio/GROUP
  std::string node;     // its own below /dev/vfio/devices; empty: the kernel has none
};

// Looks the function up below `sysfs`. kNotFound: there is none of that address. kFailedPrecondition: it is not bound
// to vfio-pci (whose it is), or has no IOMMU. Thread-safe. Source: Documentation/driver-api/vfio.rst.
absl::StatusOr<VfioHostDevice> FindVfioHostDevice(const std::string& address, const std::string& sysfs = "/sys");

// Why a group cannot be a guest's, for an error's text: what the host's drivers have of it ("0000:00:10.1 is bound to
// nvme"), and if they have nothing, that another VM may have some. Thread-safe.
std::string WhoHasVfioGroup(uint32_t group, const std::string& sysfs = "/sys");

}  // namespace cpr

#endif  // VMM_VFIO_HOST_DEVICE_H_
