#ifndef VMM_VFIO_CONFIG_SPACE_H_
#define VMM_VFIO_CONFIG_SPACE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace cpr {

// How the configuration space of a function on the host is shown to a guest. Its bytes are ours where the guest's
// answer must not be the host's: addresses, what else the guest arranges, interrupts, power states. They are saved and
// restored; all others are the function's own, and travel with it. A plain value.
struct VfioConfigSpace {
  static constexpr size_t kBytes = 256;  // PCIe's extended capabilities are not shown

  // All of kBytes. What a byte that is ours reads as at first, 0 where it is not; 0xff where it is ours; ones where the
  // guest may write.
  std::vector<uint8_t> bytes, ours, writable;

  // Offset is the capability's.
  struct Msix {
    unsigned offset = 0, vectors = 0, table_bar = 0, pba_bar = 0;
    uint64_t table_offset = 0, pba_offset = 0;  // in their BARs
  };
  std::optional<Msix> msix;
  // Without its mask and pending bits, which a capability may lack.
  struct Msi {
    unsigned offset = 0, vectors = 0;
    bool is_64 = false;  // the address has 64 bits
  };
  std::optional<Msi> msi;
};

// `device` is the function's configuration space as the host shows it, kBytes or more. kInvalidArgument: it is too
// short, or no plain function's (a bridge's). kDataLoss: its list of capabilities does not end, or leaves it.
// Source: PCI Local Bus 3.0, 6; PCI Bus Power Management 1.2, 3.2.4; PCI Express Base 3.0, 7.8.2.
absl::StatusOr<VfioConfigSpace> ShowConfigSpace(absl::Span<const uint8_t> device);

}  // namespace cpr

#endif  // VMM_VFIO_CONFIG_SPACE_H_
