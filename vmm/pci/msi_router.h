#ifndef VMM_PCI_MSI_ROUTER_H_
#define VMM_PCI_MSI_ROUTER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/devices/msi_message.h"

namespace cpr {

// How messages of PCI functions get to KVM: each vector has a GSI, whose route is the message, and an eventfd that KVM
// listens to. Thread-safe. The machine implements it; the kernel replaces all routes at once and slowly, so they are
// set first and committed together.
class MsiRouter {
 public:
  virtual ~MsiRouter() = default;

  // A GSI that nobody else has. Machines built alike get the same numbers in the same order.
  // kResourceExhausted: KVM has no more.
  virtual absl::StatusOr<uint32_t> AllocateGsi() = 0;

  // Takes effect with Commit, which costs nothing if nothing has changed.
  virtual void SetRoute(uint32_t gsi, const MsiMessage& message) = 0;
  virtual absl::Status Commit() = 0;

  // What is written to `eventfd` (lent until Detach) is injected as `gsi`'s message; what was written before, too.
  virtual absl::Status Attach(int eventfd, uint32_t gsi) = 0;
  virtual absl::Status Detach(int eventfd, uint32_t gsi) = 0;
};

}  // namespace cpr

#endif  // VMM_PCI_MSI_ROUTER_H_
