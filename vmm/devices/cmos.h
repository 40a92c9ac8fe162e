#ifndef VMM_DEVICES_CMOS_H_
#define VMM_DEVICES_CMOS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libcpr/base/mutex.h"

namespace cpr {

// What CMOS memory and clock remember.
struct CmosState {
  static constexpr size_t kRegisters = 128;

  uint8_t selected_register = 0;
  // While the clock is halted (register B, SET) the time of day is here too; otherwise it is the clock's.
  std::array<uint8_t, kRegisters> contents = {};
  int64_t clock_offset_seconds = 0;  // the guest's clock minus the host's UTC

  friend bool operator==(const CmosState&, const CmosState&) = default;
};

// The PC's clock and CMOS memory (MC146818) at ports 0x70 and 0x71: time of day in BCD or binary, 12 or 24 hours, and
// the size of memory where firmware is used to leave it. Its clock goes on over a handover, as the host's does.
// Neither alarm nor periodic interrupts: nothing here drives IRQ 8. Thread-safe.
class Cmos {
 public:
  static constexpr uint64_t kPort = 0x70;
  static constexpr uint64_t kPorts = 2;

  struct Parameters {
    uint64_t ram_below_4g_bytes = 0;
    uint64_t ram_above_4g_bytes = 0;
    std::function<absl::Time()> utc;  // the host's clock
  };
  explicit Cmos(Parameters parameters);

  // `offset` 0 is port 0x70 (write-only: reads as all ones), 1 is port 0x71.
  uint8_t Read(uint64_t offset) const;
  void Write(uint64_t offset, uint8_t value);

  CmosState Save() const;
  // kDataLoss: the registers hold what they cannot; nothing has changed then.
  absl::Status Restore(const CmosState& state);

 private:
  void WriteRegister(uint8_t index, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool UpdateIsNear() const;
  bool halted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t NowSeconds() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<absl::Time()> utc_;
  mutable Mutex mutex_;
  CmosState state_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cpr

#endif  // VMM_DEVICES_CMOS_H_
