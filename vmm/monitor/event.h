#ifndef VMM_MONITOR_EVENT_H_
#define VMM_MONITOR_EVENT_H_

#include <cstdint>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/monitor/run_state.h"

namespace cpr {

// What QMP clients are told without asking: STOP, RESUME, SUSPEND, WAKEUP, RESET, SHUTDOWN, MIGRATION. A plain value.
struct MonitorEvent {
  enum class Kind : uint8_t { kUnspecified, kStop, kResume, kSuspend, kWakeup, kReset, kShutdown, kMigration };
  Kind kind = Kind::kUnspecified;
  // kReset and kShutdown: whether the guest wanted it, and QEMU's name for the reason ("host-qmp-quit",
  // "host-qmp-system-reset", "guest-shutdown", "guest-reset", "host-signal").
  bool by_guest = false;
  std::string reason;
  MigrationStatus status = MigrationStatus::kNone;  // kMigration
  absl::Time time = absl::Now();
};

}  // namespace cpr

#endif  // VMM_MONITOR_EVENT_H_
