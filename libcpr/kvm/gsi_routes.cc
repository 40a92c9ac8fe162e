#include "libcpr/kvm/gsi_routes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "libcpr/base/status_macros.h"

namespace cpr::kvm {
namespace {

constexpr uint32_t kPicPins = 8, kIoapicPins = 24;

kvm_irq_routing_entry IrqchipRoute(uint32_t gsi, uint32_t chip_id, uint32_t pin) {
  kvm_irq_routing_entry entry = {};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip = {.irqchip = chip_id, .pin = pin};
  return entry;
}

bool Same(const std::vector<kvm_irq_routing_entry>& a, const std::vector<kvm_irq_routing_entry>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
}

}  // namespace

GsiRoutes GsiRoutes::OfFullIrqchip() {
  std::vector<kvm_irq_routing_entry> entries;
  for (uint32_t gsi = 0; gsi < kIoapicPins; ++gsi) {
    entries.push_back(IrqchipRoute(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    if (gsi >= 2 * kPicPins) continue;
    const uint32_t pic = gsi < kPicPins ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
    entries.push_back(IrqchipRoute(gsi, pic, gsi % kPicPins));
  }
  GsiRoutes routes(std::move(entries));
  routes.committed_ = routes.entries_;
  return routes;
}

void GsiRoutes::SetMsi(uint32_t gsi, uint64_t address, uint32_t data) {
  Clear(gsi);
  kvm_irq_routing_entry entry = {};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = static_cast<uint32_t>(address);
  entry.u.msi.address_hi = static_cast<uint32_t>(address >> 32);
  entry.u.msi.data = data;
  Insert(entry);
}

void GsiRoutes::SetIrqchip(uint32_t gsi, uint32_t chip_id, uint32_t pin) {
  Clear(gsi);
  Insert(IrqchipRoute(gsi, chip_id, pin));
}

void GsiRoutes::Clear(uint32_t gsi) {
  std::erase_if(entries_, [gsi](const kvm_irq_routing_entry& entry) { return entry.gsi == gsi; });
}

void GsiRoutes::Insert(const kvm_irq_routing_entry& entry) {
  const auto after = [](uint32_t gsi, const kvm_irq_routing_entry& other) { return gsi < other.gsi; };
  entries_.insert(std::upper_bound(entries_.begin(), entries_.end(), entry.gsi, after), entry);
}

void GsiRoutes::Replace(std::vector<kvm_irq_routing_entry> entries) { entries_ = std::move(entries); }

absl::Status GsiRoutes::Commit(Vm& vm) {
  if (Same(entries_, committed_)) return absl::OkStatus();
  CPR_RETURN_IF_ERROR(vm.SetGsiRouting(entries_));
  committed_ = entries_;
  return absl::OkStatus();
}

}  // namespace cpr::kvm
