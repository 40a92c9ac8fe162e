#ifndef VMM_DEVICES_ACPI_PM_H_
#define VMM_DEVICES_ACPI_PM_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libcpr/base/mutex.h"

namespace cpr {

// What ACPI's fixed registers remember. The timer is told as the time that it has run, and when that was.
struct AcpiPmState {
  uint16_t status = 0;
  uint16_t enable = 0;
  uint16_t control = 0;  // without SCI_EN, which is always on
  uint64_t timer_ns = 0;
  int64_t saved_at_utc_ns = 0;

  friend bool operator==(const AcpiPmState&, const AcpiPmState&) = default;
};

// ACPI's fixed hardware: PM1 event and control registers, the PM timer, power button and sleep. ACPI is always on:
// there is no SMI to turn it on by. The timer goes on over a handover by the time of day that has passed; otherwise
// setting the host's clock does not move it. Thread-safe. Source: ACPI 6.4, 4.8.
class AcpiPm {
 public:
  static constexpr uint64_t kPort = 0x600;
  static constexpr uint64_t kPorts = 12;
  static constexpr uint64_t kControlOffset = 4, kTimerOffset = 8;
  static constexpr unsigned kSciIrq = 9;  // level-triggered
  // What _S3 and _S5 tell the guest to write.
  static constexpr unsigned kSleepTypeS3 = 1, kSleepTypeS5 = 5;
  static constexpr uint64_t kTimerHz = 3579545;

  struct Wiring {
    std::function<void(bool)> sci;  // called with the device locked: must not call it back
    // The guest goes to sleep; without locks, on the vCPU that asked.
    std::function<void()> suspend;          // S3
    std::function<void()> power_off;        // S5
    std::function<int64_t()> monotonic_ns;  // of the host; what the timer runs by
    std::function<absl::Time()> utc;        // the host's clock
  };
  explicit AcpiPm(Wiring wiring);

  // `offset` from kPort, of 1, 2 or 4 bytes.
  uint32_t Read(uint64_t offset, unsigned size_bytes) const;
  void Write(uint64_t offset, unsigned size_bytes, uint32_t value);

  // Tells the guest that somebody pressed the power button.
  void PressPowerButton();
  // The guest wakes: its status register says that it slept.
  void SetWakeStatus();
  // May the guest hear of the power button at all.
  bool power_button_enabled() const;

  // As after power on; the timer goes on.
  void Reset();
  AcpiPmState Save() const;
  // Calls nothing. kDataLoss: no guest could have brought the registers there; nothing has changed then.
  absl::Status Restore(const AcpiPmState& state);

 private:
  int64_t UtcNs() const { return absl::ToUnixNanos(wiring_.utc()); }
  uint64_t TimerNs() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateSci() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Wiring wiring_;
  mutable Mutex mutex_;
  AcpiPmState state_ ABSL_GUARDED_BY(mutex_);  // its timer_ns as of counting_since_ns_
  int64_t counting_since_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  bool sci_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cpr

#endif  // VMM_DEVICES_ACPI_PM_H_
