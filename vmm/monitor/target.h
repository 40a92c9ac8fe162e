#ifndef VMM_MONITOR_TARGET_H_
#define VMM_MONITOR_TARGET_H_

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/modes/phase.h"
#include "vmm/monitor/migration_settings.h"
#include "vmm/monitor/run_state.h"
#include "vmm/options/channel.h"

namespace cpr {

// The last migration of this VM, outgoing or incoming. Durations are zero where they are not known (yet).
struct MigrationInfo {
  MigrationStatus status = MigrationStatus::kNone;
  std::string error_desc;          // kFailed: why
  absl::Duration total_time;       // from the command to the end, or up to now
  absl::Duration setup_time;       // of it, before the guest was paused
  absl::Duration downtime;         // how long the guest stood still
  uint64_t transferred_bytes = 0;  // RAM copied so far
  uint64_t remaining_bytes = 0;    // RAM still to be copied
  uint64_t total_bytes = 0;        // all RAM
  uint64_t in_place_bytes = 0;     // RAM that stays where it is
  std::array<int64_t, kPhaseCount> phases_ns{};
};

struct CpuInfo {
  unsigned index = 0;
  pid_t thread_id = 0;
};

struct ChardevInfo {
  std::string label;     // "serial0"
  std::string filename;  // as Chardev::Describe says
  bool frontend_open = true;
};

// Why a guest cannot go by `mode` now; it can if there are no blockers.
struct CprReadiness {
  Mode mode = Mode::kUnspecified;
  std::vector<std::string> blockers;
};

// All that a monitor can ask of the VM. Every error's message is what the user reads: QEMU's text where it has one.
// Called on the VMM's event loop. No call blocks for longer than a vCPU takes to leave the guest.
class MonitorTarget {
 public:
  virtual ~MonitorTarget() = default;

  virtual RunState run_state() const = 0;
  virtual std::string name() const = 0;  // empty: none
  virtual std::string uuid() const = 0;  // empty: none
  virtual std::vector<CpuInfo> Cpus() const = 0;
  virtual std::vector<ChardevInfo> Chardevs() const = 0;

  virtual absl::Status Stop() = 0;
  virtual absl::Status Cont() = 0;
  virtual absl::Status SystemReset() = 0;
  virtual absl::Status SystemPowerdown() = 0;
  virtual absl::Status SystemWakeup() = 0;
  // Ends the VMM once this call has returned.
  virtual void Quit() = 0;

  virtual MigrationSettings& migration_settings() = 0;
  virtual MigrationInfo migration_info() const = 0;
  // Begin a migration and return; what happens afterwards shows in migration_info and as MIGRATION events. OK: the
  // status is kSetup or later. The channels have been checked against the settings.
  virtual absl::Status Migrate(const Channels& channels) = 0;
  virtual absl::Status MigrateIncoming(const Channels& channels) = 0;
  // OK also when nothing is under way, as with QEMU.
  virtual absl::Status MigrateCancel() = 0;
  // One entry for each mode.
  virtual std::vector<CprReadiness> Readiness() = 0;

  // Keeps `fd` for an address "fd:`name`"; a former one of this name is closed.
  virtual void AdoptFd(absl::string_view name, UniqueFd fd) = 0;
};

}  // namespace cpr

#endif  // VMM_MONITOR_TARGET_H_
