#include "vmm/devices/acpi_pm.h"

#include <algorithm>

#include "absl/numeric/int128.h"
#include "absl/strings/str_format.h"

namespace cpr {
namespace {

constexpr uint64_t kStatusOffset = 0, kEnableOffset = 2;
// Events that may raise the SCI: timer, global lock, power button, sleep button, clock alarm.
constexpr uint16_t kEvents = 0x0721;
constexpr uint16_t kPowerButton = 0x0100, kWakeStatus = 0x8000;
constexpr uint16_t kSciEnabled = 1, kSleepEnable = 1 << 13;
constexpr uint16_t kControlKept = 0x1c02;  // sleep type, bus master reload
constexpr unsigned kSleepTypeShift = 10, kSleepTypeMask = 7;

// The part of a write of `size_bytes` at `offset` that falls on the 16-bit register at `at`, and the bits that it sets.
struct Part {
  uint16_t value = 0;
  uint16_t mask = 0;
};
Part PartOf(uint64_t at, uint64_t offset, unsigned size_bytes, uint32_t value) {
  Part part;
  for (unsigned i = 0; i < size_bytes; ++i) {
    if (offset + i < at || offset + i >= at + 2) continue;
    const unsigned shift = static_cast<unsigned>(8 * (offset + i - at));
    part.value |= static_cast<uint16_t>((value >> (8 * i) & 0xff) << shift);
    part.mask |= static_cast<uint16_t>(0xff << shift);
  }
  return part;
}

uint32_t Ticks(uint64_t ns) {
  return static_cast<uint32_t>(absl::Uint128Low64(absl::uint128(ns) * AcpiPm::kTimerHz / 1'000'000'000));
}

}  // namespace

AcpiPm::AcpiPm(Wiring wiring) : wiring_(std::move(wiring)) {
  MutexLock lock(&mutex_);
  counting_since_ns_ = wiring_.monotonic_ns();
}

uint64_t AcpiPm::TimerNs() const {
  return state_.timer_ns + static_cast<uint64_t>(wiring_.monotonic_ns() - counting_since_ns_);
}

uint32_t AcpiPm::Read(uint64_t offset, unsigned size_bytes) const {
  MutexLock lock(&mutex_);
  const uint64_t events = state_.status | uint64_t{state_.enable} << 16;
  const uint64_t low = events | static_cast<uint64_t>(state_.control | kSciEnabled) << 32;
  uint64_t value = offset < kTimerOffset ? low >> (8 * offset) : Ticks(TimerNs()) >> (8 * (offset - kTimerOffset));
  if (size_bytes < 4) value &= (uint64_t{1} << 8 * size_bytes) - 1;
  return static_cast<uint32_t>(value);
}

void AcpiPm::Write(uint64_t offset, unsigned size_bytes, uint32_t value) {
  const Part status = PartOf(kStatusOffset, offset, size_bytes, value);
  const Part enable = PartOf(kEnableOffset, offset, size_bytes, value);
  const Part control = PartOf(kControlOffset, offset, size_bytes, value);
  {
    MutexLock lock(&mutex_);
    state_.status &= static_cast<uint16_t>(~status.value);  // ones clear
    state_.enable = static_cast<uint16_t>(((state_.enable & ~enable.mask) | enable.value) & kEvents);
    state_.control = static_cast<uint16_t>(((state_.control & ~control.mask) | control.value) & kControlKept);
    UpdateSci();
  }
  if ((control.value & kSleepEnable) == 0) return;
  const unsigned type = control.value >> kSleepTypeShift & kSleepTypeMask;
  if (type == kSleepTypeS3) wiring_.suspend();
  if (type == kSleepTypeS5) wiring_.power_off();
}

void AcpiPm::UpdateSci() {
  const bool level = (state_.status & state_.enable & kEvents) != 0;
  if (level == sci_) return;
  sci_ = level;
  wiring_.sci(level);
}

void AcpiPm::PressPowerButton() {
  MutexLock lock(&mutex_);
  state_.status |= kPowerButton;
  UpdateSci();
}

void AcpiPm::SetWakeStatus() {
  MutexLock lock(&mutex_);
  state_.status |= kWakeStatus;
}

bool AcpiPm::power_button_enabled() const {
  MutexLock lock(&mutex_);
  return (state_.enable & kPowerButton) != 0;
}

void AcpiPm::Reset() {
  MutexLock lock(&mutex_);
  state_.status = state_.enable = state_.control = 0;
  UpdateSci();
}

AcpiPmState AcpiPm::Save() const {
  MutexLock lock(&mutex_);
  AcpiPmState state = state_;
  state.saved_at_utc_ns = UtcNs();
  state.timer_ns = TimerNs();
  return state;
}

absl::Status AcpiPm::Restore(const AcpiPmState& state) {
  if ((state.status & ~(kEvents | kWakeStatus)) != 0 || (state.enable & ~kEvents) != 0 ||
      (state.control & ~kControlKept) != 0) {
    return absl::DataLossError(
        absl::StrFormat("ACPI registers are %#x, %#x, %#x", state.status, state.enable, state.control));
  }
  if (state.saved_at_utc_ns < 0) return absl::DataLossError("ACPI timer was saved before 1970");
  MutexLock lock(&mutex_);
  state_ = state;
  // The host's clock may have been set back since: the timer must not run backwards.
  state_.timer_ns += static_cast<uint64_t>(std::max<int64_t>(UtcNs() - state.saved_at_utc_ns, 0));
  counting_since_ns_ = wiring_.monotonic_ns();
  sci_ = (state.status & state.enable & kEvents) != 0;
  return absl::OkStatus();
}

}  // namespace cpr
