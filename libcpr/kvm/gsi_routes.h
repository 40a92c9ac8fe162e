#ifndef LIBCPR_KVM_GSI_ROUTES_H_
#define LIBCPR_KVM_GSI_ROUTES_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "libcpr/kvm/uapi.h"
#include "libcpr/kvm/vm.h"

namespace cpr::kvm {

// A VM's interrupt routes. The kernel cannot be asked for them, so this is the one place that knows; and it replaces
// all at once and waits for a grace period each time, so changes gather here until Commit. Thread-compatible.
class GsiRoutes {
 public:
  GsiRoutes() = default;
  explicit GsiRoutes(std::vector<kvm_irq_routing_entry> entries) : entries_(std::move(entries)) {}

  // What KVM_CREATE_IRQCHIP sets up: GSI 0-15 to PIC and IOAPIC, 16-23 to the IOAPIC.
  static GsiRoutes OfFullIrqchip();

  // Replaces whatever `gsi` is routed to. Entries stay in order of GSIs, so that the order of changes does not matter.
  void SetMsi(uint32_t gsi, uint64_t address, uint32_t data);
  void SetIrqchip(uint32_t gsi, uint32_t chip_id, uint32_t pin);
  void Clear(uint32_t gsi);
  void Replace(std::vector<kvm_irq_routing_entry> entries);

  const std::vector<kvm_irq_routing_entry>& entries() const { return entries_; }

  // Gives the routes to `vm`, if they have changed since the last Commit. Always use one and the same VM.
  absl::Status Commit(Vm& vm);

 private:
  void Insert(const kvm_irq_routing_entry& entry);

  std::vector<kvm_irq_routing_entry> entries_;
  std::vector<kvm_irq_routing_entry> committed_;
};

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_GSI_ROUTES_H_
