#ifndef VMM_MONITOR_MIGRATION_SETTINGS_H_
#define VMM_MONITOR_MIGRATION_SETTINGS_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "libcpr/modes/phase.h"
#include "vmm/options/channel.h"

namespace cpr {

// Migration parameters and capabilities as users set them, and the refusals that follow from them and the channels
// alone. Errors carry QEMU's text where it has one. Thread-compatible; the machine owns one.
class MigrationSettings {
 public:
  // Empty: "normal", where everything starts.
  std::optional<Mode> mode() const { return mode_; }
  absl::string_view mode_name() const { return mode_.has_value() ? ModeName(*mode_) : "normal"; }
  // argv of the program that cpr-exec executes.
  const std::vector<std::string>& exec_command() const { return exec_command_; }
  // x-ignore-shared: shared RAM in named files stays where it is (cpr-reboot).
  bool ignore_shared() const { return ignore_shared_; }
  // x-mapped-restore: private RAM is mapped from the state's file, not copied from it (cpr-reboot, incoming).
  bool mapped_restore() const { return mapped_restore_; }
  // Whether MIGRATION events are sent. Unlike QEMU's it is on from the start.
  bool events() const { return events_; }

  absl::Status SetMode(absl::string_view name);
  void SetExecCommand(std::vector<std::string> words) { exec_command_ = std::move(words); }
  // What excludes CPR (postcopy-ram, background-snapshot, x-colo) may be switched off, not on.
  absl::Status SetCapability(absl::string_view name, bool on);
  // Sorted by name.
  std::vector<std::pair<absl::string_view, bool>> capabilities() const;

  // Whether a migration over `channels` is possible as things are set. kInvalidArgument or kFailedPrecondition.
  absl::Status CheckOutgoing(const Channels& channels) const;
  // The same for migrate-incoming, where the mode need not be set: the state knows its own.
  static absl::Status CheckIncoming(const Channels& channels);

 private:
  absl::Status CheckTransfer(const Channels& channels) const;
  absl::Status CheckReboot(const Address& main) const;
  absl::Status CheckExec(const Address& main) const;
  static absl::Status CheckLuo(const Address& main);

  std::optional<Mode> mode_;
  std::vector<std::string> exec_command_;
  bool ignore_shared_ = false;
  bool mapped_restore_ = false;
  bool events_ = true;
};

}  // namespace cpr

#endif  // VMM_MONITOR_MIGRATION_SETTINGS_H_
