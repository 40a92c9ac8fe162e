#ifndef VMM_DEVICES_MSI_MESSAGE_H_
#define VMM_DEVICES_MSI_MESSAGE_H_

#include <cstdint>

namespace cpr {

// An interrupt as it goes to the local APICs.
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;

  friend bool operator==(const MsiMessage&, const MsiMessage&) = default;
};

}  // namespace cpr

#endif  // VMM_DEVICES_MSI_MESSAGE_H_
