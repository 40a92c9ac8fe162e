#ifndef VMM_VFIO_VFIO_STATE_H_
#define VMM_VFIO_VFIO_STATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/cpr/v1/vfio.pb.h"
#include "vmm/vfio/identity.h"

namespace cpr {

// What a new VMM must know of the host's side of a guest's VFIO devices before it builds the machine. It does not
// change while the machine exists. A plain value.
struct VfioState {
  struct Mapping {
    uint64_t gpa = 0, size_bytes = 0;
    friend bool operator==(const Mapping&, const Mapping&) = default;
  };
  struct Iommufd {
    std::string id;
    uint32_t ioas_id = 0;
    friend bool operator==(const Iommufd&, const Iommufd&) = default;
  };
  struct Device {
    uint32_t group = 0, interrupts = 0;
    VfioIdentity identity;
    friend bool operator==(const Device&, const Device&) = default;
  };
  std::vector<Mapping> mappings;  // in the order in which they were made
  std::vector<Iommufd> iommufds;
  std::vector<Device> devices;  // in the description's order
  // As fds, and what they reach. Else (cpr-reboot) only the devices' identities count: they are opened anew.
  bool devices_come = true;

  friend bool operator==(const VfioState&, const VfioState&) = default;
};

v1::VfioState VfioStateToProto(const VfioState& state);
// kDataLoss: a field is missing or out of range. Thread-safe.
absl::StatusOr<VfioState> VfioStateFromProto(const v1::VfioState& proto);

}  // namespace cpr

#endif  // VMM_VFIO_VFIO_STATE_H_
