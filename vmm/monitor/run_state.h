#ifndef VMM_MONITOR_RUN_STATE_H_
#define VMM_MONITOR_RUN_STATE_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace cpr {

// What the VM is doing, in QEMU's terms. Only in kRunning do vCPUs execute.
enum class RunState : uint8_t {
  kUnspecified,
  kRunning,
  kPaused,         // stopped by the user, or started with -S
  kSuspended,      // the guest suspended itself to RAM; system_wakeup ends it
  kFinishMigrate,  // paused to hand the guest over
  kPostmigrate,    // the guest has gone
  kInmigrate,      // waits for a guest
  kShutdown,       // the guest powered itself off
};

// How a migration fares: none, setup, active, device, then completed, failed, or cancelling and cancelled.
enum class MigrationStatus : uint8_t {
  kNone,
  kSetup,
  kActive,
  kDevice,  // devices are being serialised; always passed through
  kCompleted,
  kFailed,
  kCancelling,
  kCancelled,
};

// QEMU's names: "finish-migrate", "cancelling".
absl::string_view RunStateName(RunState state);
absl::string_view MigrationStatusName(MigrationStatus status);

// Whether nothing follows: completed, failed or cancelled.
bool IsFinal(MigrationStatus status);

}  // namespace cpr

#endif  // VMM_MONITOR_RUN_STATE_H_
