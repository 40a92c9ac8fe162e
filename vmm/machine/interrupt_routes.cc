#include "vmm/machine/interrupt_routes.h"

#include "absl/strings/str_cat.h"

namespace cpr {
namespace {

constexpr uint32_t kMsiLevelTriggered = 1u << 15;  // of an MSI's data
constexpr uint32_t kMaxGsis = 4096;                // KVM_MAX_IRQ_ROUTES

}  // namespace

absl::Status InterruptRoutes::SetIoapic(absl::Span<const IoapicRoute> routes) {
  MutexLock lock(&mutex_);
  // KVM needs the level-triggered pins alone, to tell of their EOI; edges go by KVM_SIGNAL_MSI. A guest that only uses
  // edges costs no update.
  for (unsigned pin = 0; pin < kIoapicPins; ++pin) routes_.Clear(pin);
  for (const IoapicRoute& route : routes) {
    if ((route.msi.data & kMsiLevelTriggered) != 0) routes_.SetMsi(route.pin, route.msi.address, route.msi.data);
  }
  return routes_.Commit(*vm_);
}

absl::StatusOr<uint32_t> InterruptRoutes::AllocateGsi() {
  MutexLock lock(&mutex_);
  if (next_gsi_ == kMaxGsis) return absl::ResourceExhaustedError(absl::StrCat("KVM has ", kMaxGsis, " GSIs, no more"));
  return next_gsi_++;
}

void InterruptRoutes::SetRoute(uint32_t gsi, const MsiMessage& message) {
  MutexLock lock(&mutex_);
  routes_.SetMsi(gsi, message.address, message.data);
}

absl::Status InterruptRoutes::Commit() {
  MutexLock lock(&mutex_);
  return routes_.Commit(*vm_);
}

}  // namespace cpr
