#ifndef VMM_PCI_INTX_ROUTER_H_
#define VMM_PCI_INTX_ROUTER_H_

#include <cstdint>

#include "absl/status/status.h"

namespace cpr {

// How the level-triggered INTx of functions that others signal for (VFIO) gets to the guest. The machine implements it.
//
// A line is closed at first. While it is open, what is written to `trigger` (before, too) asserts it; once the guest is
// done with that interrupt, the line is deasserted and `resample` written to, for who signals to look again. Otherwise
// what is written gathers in `trigger`.
class IntxRouter {
 public:
  struct Line {
    int trigger = -1, resample = -1;  // eventfds that do not block, lent until Remove
    uint32_t gsi = 0;                 // PciIntxGsi; others may have it, too
  };
  virtual ~IntxRouter() = default;

  // On the event loop's thread.
  virtual absl::Status Add(const Line& line) = 0;
  virtual void Remove(const Line& line) = 0;

  // Of a line that is there. Thread-safe.
  virtual absl::Status Open(const Line& line) = 0;
  // Deasserts it.
  virtual absl::Status Close(const Line& line) = 0;
  // The machine stops. An assertion stays with the IOAPIC's state, or who signals is told to look by the next Open.
  virtual absl::Status Hold(const Line& line) = 0;
};

}  // namespace cpr

#endif  // VMM_PCI_INTX_ROUTER_H_
