#ifndef VMM_MACHINE_INTERRUPT_ROUTES_H_
#define VMM_MACHINE_INTERRUPT_ROUTES_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/types/span.h"
#include "libcpr/base/mutex.h"
#include "libcpr/kvm/gsi_routes.h"
#include "libcpr/kvm/vm.h"
#include "vmm/devices/ioapic.h"
#include "vmm/pci/msi_router.h"

namespace cpr {

// All interrupt routes of the machine's VM: GSIs 0 to 23 are the IOAPIC's, those above are messages'. Thread-safe but
// for gsi_routes().
class InterruptRoutes final : public MsiRouter {
 public:
  // `vm` must outlive it.
  InterruptRoutes(kvm::Vm* vm, kvm::GsiRoutes routes) : vm_(vm), routes_(std::move(routes)) {}

  // For saving and restoring, while nobody else is there.
  kvm::GsiRoutes& gsi_routes() { return routes_; }

  // Replaces the routes of a user-space IOAPIC.
  absl::Status SetIoapic(absl::Span<const IoapicRoute> routes);

  absl::StatusOr<uint32_t> AllocateGsi() override;
  void SetRoute(uint32_t gsi, const MsiMessage& message) override;
  absl::Status Commit() override;
  absl::Status Attach(int eventfd, uint32_t gsi) override { return vm_->AssignIrqfd(eventfd, gsi); }
  absl::Status Detach(int eventfd, uint32_t gsi) override { return vm_->DeassignIrqfd(eventfd, gsi); }

 private:
  kvm::Vm* const vm_;
  Mutex mutex_;  // vCPUs change routes at the same time
  uint32_t next_gsi_ ABSL_GUARDED_BY(mutex_) = kIoapicPins;
  kvm::GsiRoutes routes_;
};

}  // namespace cpr

#endif  // VMM_MACHINE_INTERRUPT_ROUTES_H_
