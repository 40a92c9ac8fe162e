#include "vmm/monitor/run_state.h"

namespace cpr {

absl::string_view RunStateName(RunState state) {
  switch (state) {
    case RunState::kRunning:
      return "running";
    case RunState::kPaused:
      return "paused";
    case RunState::kSuspended:
      return "suspended";
    case RunState::kFinishMigrate:
      return "finish-migrate";
    case RunState::kPostmigrate:
      return "postmigrate";
    case RunState::kInmigrate:
      return "inmigrate";
    case RunState::kShutdown:
      return "shutdown";
    case RunState::kUnspecified:
      break;
  }
  return "unspecified";
}

absl::string_view MigrationStatusName(MigrationStatus status) {
  switch (status) {
    case MigrationStatus::kNone:
      return "none";
    case MigrationStatus::kSetup:
      return "setup";
    case MigrationStatus::kActive:
      return "active";
    case MigrationStatus::kDevice:
      return "device";
    case MigrationStatus::kCompleted:
      return "completed";
    case MigrationStatus::kFailed:
      return "failed";
    case MigrationStatus::kCancelling:
      return "cancelling";
    case MigrationStatus::kCancelled:
      return "cancelled";
  }
  return "none";
}

bool IsFinal(MigrationStatus status) {
  return status == MigrationStatus::kCompleted || status == MigrationStatus::kFailed ||
         status == MigrationStatus::kCancelled;
}

}  // namespace cpr
