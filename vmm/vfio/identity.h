#ifndef VMM_VFIO_IDENTITY_H_
#define VMM_VFIO_IDENTITY_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "vmm/pci/pci_function.h"

namespace cpr {

// By what a guest's device of the host is known again when it is opened anew: what its guest has laid out its addresses
// and chosen its driver by. (The rest of configuration space is compared as its state is restored.) A plain value.
struct VfioIdentity {
  uint16_t vendor_id = 0, device_id = 0;
  std::array<uint64_t, kPciBars> bar_bytes = {};  // 0: no such BAR

  friend bool operator==(const VfioIdentity&, const VfioIdentity&) = default;
};

// kFailedPrecondition: what is `found` on the host is not what the guest `had`; the message names every difference.
// Thread-safe.
absl::Status CheckVfioIdentity(const VfioIdentity& found, const VfioIdentity& had);

}  // namespace cpr

#endif  // VMM_VFIO_IDENTITY_H_
