#include "vmm/devices/reset_control.h"

#include "absl/strings/str_format.h"

namespace cpr {
namespace {

constexpr uint8_t kSystemReset = 0x02, kResetCpu = 0x04;

}  // namespace

void ResetControl::WriteKeyboard(uint8_t command) {
  if ((command & 0xf1) == 0xf0) reset_();
}

uint8_t ResetControl::ReadResetControl() const {
  MutexLock lock(&mutex_);
  return state_.reset_control;
}

void ResetControl::WriteResetControl(uint8_t value) {
  {
    MutexLock lock(&mutex_);
    state_.reset_control = value & kSystemReset;
  }
  if ((value & kResetCpu) != 0) reset_();
}

ResetControlState ResetControl::Save() const {
  MutexLock lock(&mutex_);
  return state_;
}

absl::Status ResetControl::Restore(const ResetControlState& state) {
  if ((state.reset_control & ~kSystemReset) != 0) {
    return absl::DataLossError(absl::StrFormat("reset control is %#x: out of range", state.reset_control));
  }
  MutexLock lock(&mutex_);
  state_ = state;
  return absl::OkStatus();
}

}  // namespace cpr
