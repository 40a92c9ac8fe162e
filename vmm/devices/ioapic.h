#ifndef VMM_DEVICES_IOAPIC_H_
#define VMM_DEVICES_IOAPIC_H_

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "libcpr/base/mutex.h"
#include "vmm/devices/msi_message.h"

namespace cpr {

inline constexpr unsigned kIoapicPins = 24;

// What KVM has to know of a pin: its GSI route.
struct IoapicRoute {
  unsigned pin;
  MsiMessage msi;
  bool masked;  // here only for its EOI; an irqfd on the pin must not inject now

  friend bool operator==(const IoapicRoute&, const IoapicRoute&) = default;
};

// What an IOAPIC remembers. Redirection entries are as the guest sees them, remote IRR included.
struct IoapicState {
  static constexpr uint64_t kMaskedEntry = uint64_t{1} << 16;

  IoapicState() { redirection_entries.fill(kMaskedEntry); }
  uint8_t id = 0;
  uint8_t selected_register = 0;
  std::array<uint64_t, kIoapicPins> redirection_entries;
  uint32_t lines = 0;  // bit per pin: asserted by its device

  friend bool operator==(const IoapicState&, const IoapicState&) = default;
};

// An IOAPIC in user space (82093AA with the EOI register of version 0x20), for KVM's split irqchip: there the local
// APICs are in the kernel and say by KVM_EXIT_IOAPIC_EOI when a level-triggered vector of a route is done.
// Thread-safe.
//
// Restoring: Restore; KVM's GSI routes from Routes; the LAPICs; DeliverPending, last before the vCPUs run.
class Ioapic {
 public:
  static constexpr uint64_t kGpa = 0xfec00000;
  static constexpr uint64_t kWindowBytes = 0x1000;

  struct Wiring {
    // Delivers an interrupt (KVM_SIGNAL_MSI). Called with the device locked: must not call it back.
    std::function<void(const MsiMessage&)> send_msi;
    // Routes() has another answer now; called on the vCPU that caused it, before anything is delivered by the new
    // routes. All that one register write changes is one call: the VMM takes Routes() and sets all of KVM's at once.
    std::function<void()> routes_changed;
    // The guest is done with level-triggered `pin`: time to look whether its device still wants attention (VFIO INTx:
    // the resamplefd). May call SetLine. May be empty.
    std::function<void(unsigned pin)> pin_eoi;
  };
  explicit Ioapic(Wiring wiring) : wiring_(std::move(wiring)) {}

  // Memory-mapped registers, `offset` from kGpa.
  uint32_t ReadMmio(uint64_t offset, unsigned size_bytes);
  void WriteMmio(uint64_t offset, unsigned size_bytes, uint32_t value);

  // What a device drives `pin` to. Polarity has been dealt with: true is asserted. Pins from 24 on are ignored.
  void SetLine(unsigned pin, bool asserted);
  // A local APIC is done with `vector` (KVM_EXIT_IOAPIC_EOI).
  void Eoi(uint8_t vector);

  // The route of every pin that can deliver, and of masked level-triggered pins, whose interrupt in service is still
  // to be ended: without a route KVM would not tell of it. In order of pins.
  std::vector<IoapicRoute> Routes() const;

  IoapicState Save() const;
  // Calls nothing. kDataLoss: no guest could have brought an IOAPIC there; nothing has changed then.
  absl::Status Restore(const IoapicState& state);
  // Sends what waits on asserted level-triggered pins.
  void DeliverPending();

 private:
  void WriteRegister(uint32_t value);
  uint32_t ReadRegister() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<IoapicRoute> Route(unsigned pin) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ServiceLevel(unsigned pin) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Wiring wiring_;
  mutable Mutex mutex_;
  IoapicState state_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cpr

#endif  // VMM_DEVICES_IOAPIC_H_
