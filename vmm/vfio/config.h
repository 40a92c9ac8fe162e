#ifndef VMM_VFIO_CONFIG_H_
#define VMM_VFIO_CONFIG_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace cpr {

// As -device names it.
inline constexpr char kVfioDriverName[] = "vfio-pci";

// What -device vfio-pci asks for: a PCI device of the host's for the guest.
struct VfioDeviceConfig {
  unsigned slot = 0;    // PCI's in the guest, 1 to 31
  std::string id;       // may be empty
  std::string host;     // address on the host, canonical: "0000:00:04.0"
  std::string iommufd;  // id of the -object; empty: a VFIO group and container

  friend bool operator==(const VfioDeviceConfig&, const VfioDeviceConfig&) = default;
};

// "[DOMAIN:]BUS:DEVICE.FUNCTION", all hexadecimal, as /sys/bus/pci/devices has it: "0000:00:04.0" for "0:4.0". nullopt:
// is none. Thread-safe.
std::optional<std::string> CanonicalHostAddress(absl::string_view text);

// The same of a folder in sysfs, "/sys/bus/pci/devices/0000:00:04.0" or a link to one. nullopt: it is no PCI
// function's. Thread-safe.
std::optional<std::string> HostAddressOfFolder(absl::string_view path);

}  // namespace cpr

#endif  // VMM_VFIO_CONFIG_H_
