#ifndef VMM_DEVICES_RESET_CONTROL_H_
#define VMM_DEVICES_RESET_CONTROL_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "libcpr/base/mutex.h"

namespace cpr {

struct ResetControlState {
  uint8_t reset_control = 0;  // port 0xcf9: only the kind of reset stays

  friend bool operator==(const ResetControlState&, const ResetControlState&) = default;
};

// The two ports by which a PC resets itself: the keyboard controller's command port (0x64), which here knows its reset
// pulse and nothing else, and the chipset's reset control (0xcf9). Thread-safe.
class ResetControl {
 public:
  static constexpr uint64_t kKeyboardCommandPort = 0x64;
  static constexpr uint64_t kResetControlPort = 0xcf9;

  // `reset` is called without locks, on the vCPU that asked.
  explicit ResetControl(std::function<void()> reset) : reset_(std::move(reset)) {}

  // All ones: to a guest that probes, no keyboard controller is there.
  uint8_t ReadKeyboard() const { return 0xff; }
  // 0xf0 to 0xff pulse the output lines whose bit is 0; line 0 is reset.
  void WriteKeyboard(uint8_t command);

  uint8_t ReadResetControl() const;
  // Bit 2 resets, bit 1 says whether as if by the button, which is all that can be read back.
  void WriteResetControl(uint8_t value);

  ResetControlState Save() const;
  // kDataLoss: the register cannot hold that; nothing has changed then.
  absl::Status Restore(const ResetControlState& state);

 private:
  const std::function<void()> reset_;
  mutable Mutex mutex_;
  ResetControlState state_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cpr

#endif  // VMM_DEVICES_RESET_CONTROL_H_
