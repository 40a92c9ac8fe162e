#include "vmm/devices/ioapic.h"

#include "absl/strings/str_format.h"

namespace cpr {
namespace {

// Offsets of the memory-mapped registers, and indices behind them.
constexpr uint64_t kSelect = 0x00, kWindow = 0x10, kEoi = 0x40;
constexpr uint8_t kIdRegister = 0, kVersionRegister = 1, kArbitrationRegister = 2, kFirstEntryRegister = 0x10;
constexpr uint32_t kVersion = 0x20 | ((kIoapicPins - 1) << 16);

// A redirection entry. Bit 12, delivery status, is never set: we deliver at once.
constexpr uint64_t kLogicalDestination = 1 << 11, kRemoteIrr = 1 << 14, kLevel = 1 << 15, kMasked = 1 << 16;
constexpr uint64_t kWritableLow = 0x1afff, kWritableHigh = 0xff000000;
constexpr uint64_t kEntryMask = (kWritableHigh << 32) | kWritableLow | kRemoteIrr;

constexpr unsigned kLowestPriority = 1, kExtInt = 7;
constexpr uint64_t kMsiBase = 0xfee00000;

uint8_t Vector(uint64_t entry) { return static_cast<uint8_t>(entry); }
unsigned DeliveryMode(uint64_t entry) { return (entry >> 8) & 7; }
bool IsMasked(uint64_t entry) { return (entry & kMasked) != 0; }
// NMI, SMI and INIT are edges whatever the trigger bit says.
bool IsLevel(uint64_t entry) { return (entry & kLevel) != 0 && DeliveryMode(entry) <= kLowestPriority; }
// ExtINT asks the 8259 for the vector, which a split irqchip has not got.
bool CanDeliver(uint64_t entry) { return !IsMasked(entry) && DeliveryMode(entry) != kExtInt; }

MsiMessage ToMsi(uint64_t entry) {
  MsiMessage msi;
  msi.address = kMsiBase | ((entry >> 56) << 12) | ((entry & kLogicalDestination) != 0 ? 4 : 0);
  msi.data = Vector(entry) | (DeliveryMode(entry) << 8) | (IsLevel(entry) ? 1u << 15 : 0);
  return msi;
}

absl::Status Validate(const IoapicState& s) {
  if (s.id > 15) return absl::DataLossError(absl::StrFormat("ioapic id is %d: out of range", s.id));
  if (s.lines >> kIoapicPins != 0) return absl::DataLossError(absl::StrFormat("ioapic lines are %#x", s.lines));
  for (unsigned pin = 0; pin < kIoapicPins; ++pin) {
    const uint64_t entry = s.redirection_entries[pin];
    if ((entry & ~kEntryMask) != 0 || ((entry & kRemoteIrr) != 0 && !IsLevel(entry))) {
      return absl::DataLossError(absl::StrFormat("ioapic redirection entry %d is %#x", pin, entry));
    }
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t Ioapic::ReadMmio(uint64_t offset, unsigned size_bytes) {
  MutexLock lock(&mutex_);
  if (offset == kSelect) return state_.selected_register;
  if (offset == kWindow && size_bytes == 4) return ReadRegister();
  return 0;
}

uint32_t Ioapic::ReadRegister() const {
  const uint8_t index = state_.selected_register;
  if (index == kIdRegister || index == kArbitrationRegister) return uint32_t{state_.id} << 24;
  if (index == kVersionRegister) return kVersion;
  if (index < kFirstEntryRegister) return 0;
  const unsigned pin = (index - kFirstEntryRegister) / 2;
  if (pin >= kIoapicPins) return 0;
  return static_cast<uint32_t>(state_.redirection_entries[pin] >> ((index & 1) != 0 ? 32 : 0));
}

void Ioapic::WriteMmio(uint64_t offset, unsigned size_bytes, uint32_t value) {
  if (offset == kWindow && size_bytes == 4) return WriteRegister(value);
  if (offset == kEoi && size_bytes == 4) return Eoi(static_cast<uint8_t>(value));
  if (offset != kSelect) return;
  MutexLock lock(&mutex_);
  state_.selected_register = static_cast<uint8_t>(value);
}

void Ioapic::WriteRegister(uint32_t value) {
  bool changed;
  unsigned pin;
  {
    MutexLock lock(&mutex_);
    const uint8_t index = state_.selected_register;
    if (index == kIdRegister) state_.id = (value >> 24) & 15;
    if (index < kFirstEntryRegister || index >= kFirstEntryRegister + 2 * kIoapicPins) return;
    pin = (index - kFirstEntryRegister) / 2;
    const std::optional<IoapicRoute> before = Route(pin);
    uint64_t& entry = state_.redirection_entries[pin];
    if ((index & 1) != 0) {
      entry = (entry & 0xffffffff) | ((value & kWritableHigh) << 32);
    } else {
      entry = (entry & ~kWritableLow) | (value & kWritableLow);
    }
    // Turning a pin to edge and back is how older kernels end an interrupt in service.
    if (!IsLevel(entry)) entry &= ~kRemoteIrr;
    changed = Route(pin) != before;
  }
  // KVM must know the vector as level-triggered before it is delivered, or it would not report its EOI.
  if (changed) wiring_.routes_changed();
  MutexLock lock(&mutex_);
  ServiceLevel(pin);
}

std::optional<IoapicRoute> Ioapic::Route(unsigned pin) const {
  const uint64_t entry = state_.redirection_entries[pin];
  if (!CanDeliver(entry) && !IsLevel(entry)) return std::nullopt;
  return IoapicRoute{pin, ToMsi(entry), IsMasked(entry)};
}

std::vector<IoapicRoute> Ioapic::Routes() const {
  MutexLock lock(&mutex_);
  std::vector<IoapicRoute> routes;
  for (unsigned pin = 0; pin < kIoapicPins; ++pin) {
    if (const auto route = Route(pin); route.has_value()) routes.push_back(*route);
  }
  return routes;
}

void Ioapic::SetLine(unsigned pin, bool asserted) {
  if (pin >= kIoapicPins) return;
  MutexLock lock(&mutex_);
  const uint32_t bit = 1u << pin;
  const bool was_asserted = (state_.lines & bit) != 0;
  if (was_asserted == asserted) return;
  state_.lines ^= bit;
  const uint64_t entry = state_.redirection_entries[pin];
  if (IsLevel(entry)) return ServiceLevel(pin);
  // An edge at a masked pin is lost, says the data sheet.
  if (asserted && CanDeliver(entry)) wiring_.send_msi(ToMsi(entry));
}

void Ioapic::ServiceLevel(unsigned pin) {
  uint64_t& entry = state_.redirection_entries[pin];
  const bool asserted = (state_.lines & (1u << pin)) != 0;
  if (!asserted || !IsLevel(entry) || !CanDeliver(entry) || (entry & kRemoteIrr) != 0) return;
  entry |= kRemoteIrr;
  wiring_.send_msi(ToMsi(entry));
}

void Ioapic::Eoi(uint8_t vector) {
  std::vector<unsigned> done;
  {
    MutexLock lock(&mutex_);
    for (unsigned pin = 0; pin < kIoapicPins; ++pin) {
      uint64_t& entry = state_.redirection_entries[pin];
      if (!IsLevel(entry) || Vector(entry) != vector) continue;
      entry &= ~kRemoteIrr;  // not set where an irqfd injected past us; its resampling waits all the same
      done.push_back(pin);
    }
  }
  for (const unsigned pin : done) {
    if (wiring_.pin_eoi) wiring_.pin_eoi(pin);
    MutexLock lock(&mutex_);
    ServiceLevel(pin);
  }
}

void Ioapic::DeliverPending() {
  MutexLock lock(&mutex_);
  for (unsigned pin = 0; pin < kIoapicPins; ++pin) ServiceLevel(pin);
}

IoapicState Ioapic::Save() const {
  MutexLock lock(&mutex_);
  return state_;
}

absl::Status Ioapic::Restore(const IoapicState& state) {
  if (absl::Status status = Validate(state); !status.ok()) return status;
  MutexLock lock(&mutex_);
  state_ = state;
  return absl::OkStatus();
}

}  // namespace cpr
