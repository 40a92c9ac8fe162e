#include "vmm/devices/cmos.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "vmm/devices/cmos_clock.h"

namespace cpr {
namespace {

constexpr uint8_t kRegisterA = 0x0a, kRegisterC = 0x0c, kRegisterD = 0x0d;
constexpr uint8_t kOscillator = 0x26;  // register A: 32768 Hz time base, 1024 Hz rate
constexpr uint8_t kUpdating = 0x80;    // register A, read-only: the time is about to change
constexpr uint8_t kBatteryGood = 0x80;

// How long before the next second a reader is warned, by the data sheet.
constexpr absl::Duration kUpdateNotice = absl::Microseconds(244);

// Beyond any clock that a guest can set (years 0 to 16599 in register form).
constexpr int64_t kMaxOffsetSeconds = int64_t{1} << 40;

void Put16(CmosState& s, size_t index, uint64_t value) {
  const uint64_t capped = std::min<uint64_t>(value, 0xffff);
  s.contents[index] = static_cast<uint8_t>(capped);
  s.contents[index + 1] = static_cast<uint8_t>(capped >> 8);
}

// Where PC firmware keeps the size of memory.
void PutMemorySizes(CmosState& s, uint64_t below_4g_bytes, uint64_t above_4g_bytes) {
  constexpr uint64_t kKib = 1 << 10, kMib = 1 << 20, kUnit = 64 << 10;
  const uint64_t extended = below_4g_bytes > kMib ? below_4g_bytes - kMib : 0;
  Put16(s, 0x15, 640);              // KiB of base memory
  Put16(s, 0x17, extended / kKib);  // KiB over 1 MiB, as set up
  Put16(s, 0x30, extended / kKib);  // ... and as found
  Put16(s, 0x34, below_4g_bytes > 16 * kMib ? (below_4g_bytes - 16 * kMib) / kUnit : 0);
  const uint64_t high = above_4g_bytes / kUnit;
  for (int i = 0; i < 3; ++i) s.contents[0x5b + i] = static_cast<uint8_t>(high >> (8 * i));
}

absl::Status Validate(const CmosState& s) {
  if (s.selected_register >= CmosState::kRegisters) {
    return absl::DataLossError(absl::StrFormat("cmos selected register is %#x: out of range", s.selected_register));
  }
  if (s.clock_offset_seconds > kMaxOffsetSeconds || s.clock_offset_seconds < -kMaxOffsetSeconds) {
    return absl::DataLossError(absl::StrFormat("cmos clock offset is %d s: out of range", s.clock_offset_seconds));
  }
  if (s.contents[kRegisterC] != 0 || s.contents[kRegisterD] != kBatteryGood ||
      (s.contents[kRegisterA] & kUpdating) != 0) {
    return absl::DataLossError("cmos status registers A, C, D hold what they cannot");
  }
  return absl::OkStatus();
}

}  // namespace

Cmos::Cmos(Parameters parameters) : utc_(std::move(parameters.utc)) {
  state_.contents[kRegisterA] = kOscillator;
  state_.contents[kCmosRegisterB] = kCmos24Hours;
  state_.contents[kRegisterD] = kBatteryGood;
  PutMemorySizes(state_, parameters.ram_below_4g_bytes, parameters.ram_above_4g_bytes);
}

bool Cmos::halted() const { return (state_.contents[kCmosRegisterB] & kCmosHalted) != 0; }

int64_t Cmos::NowSeconds() const { return absl::ToUnixSeconds(utc_()) + state_.clock_offset_seconds; }

bool Cmos::UpdateIsNear() const {
  const absl::Time now = utc_();
  return now - absl::FromUnixSeconds(absl::ToUnixSeconds(now)) >= absl::Seconds(1) - kUpdateNotice;
}

uint8_t Cmos::Read(uint64_t offset) const {
  MutexLock lock(&mutex_);
  if (offset != 1) return 0xff;
  const uint8_t index = state_.selected_register;
  if (index == kRegisterA && !halted() && UpdateIsNear()) return state_.contents[index] | kUpdating;
  if (!IsCmosTime(index) || halted()) return state_.contents[index];
  std::array<uint8_t, CmosState::kRegisters> shown = state_.contents;
  SetCmosTime(NowSeconds(), shown);
  return shown[index];
}

void Cmos::Write(uint64_t offset, uint8_t value) {
  MutexLock lock(&mutex_);
  if (offset == 0) {
    state_.selected_register = value & 0x7f;  // bit 7 masks NMIs, which nobody raises here
  } else {
    WriteRegister(state_.selected_register, value);
  }
}

void Cmos::WriteRegister(uint8_t index, uint8_t value) {
  if (index == kRegisterC || index == kRegisterD) return;
  if (index == kRegisterA) value &= static_cast<uint8_t>(~kUpdating);
  const bool sets_clock = IsCmosTime(index) || index == kCmosRegisterB;
  if (!sets_clock) {
    state_.contents[index] = value;
    return;
  }
  // A running clock is halted for the write and set going again after it, if it is to run.
  const bool was_halted = halted();
  if (!was_halted) SetCmosTime(NowSeconds(), state_.contents);
  state_.contents[index] = value;
  // A change of form (register B) must not be taken for a change of time.
  if (!was_halted && index == kCmosRegisterB) return SetCmosTime(NowSeconds(), state_.contents);
  if (!halted()) state_.clock_offset_seconds = CmosTime(state_.contents) - absl::ToUnixSeconds(utc_());
}

CmosState Cmos::Save() const {
  MutexLock lock(&mutex_);
  return state_;
}

absl::Status Cmos::Restore(const CmosState& state) {
  if (absl::Status status = Validate(state); !status.ok()) return status;
  MutexLock lock(&mutex_);
  state_ = state;
  return absl::OkStatus();
}

}  // namespace cpr
