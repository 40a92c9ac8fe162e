#ifndef VMM_MONITOR_FAKE_TARGET_H_
#define VMM_MONITOR_FAKE_TARGET_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "vmm/monitor/target.h"

namespace cpr {

// A VM for the monitors' tests: answers what it is told to, and remembers what it was asked.
class FakeTarget : public MonitorTarget {
 public:
  RunState run_state() const override { return state; }
  std::string name() const override { return vm_name; }
  std::string uuid() const override { return vm_uuid; }
  std::vector<CpuInfo> Cpus() const override { return {{0, 100}, {1, 101}}; }
  std::vector<ChardevInfo> Chardevs() const override { return {{"serial0", "file", true}}; }
  absl::Status Stop() override { return Note("stop"); }
  absl::Status Cont() override { return Note("cont"); }
  absl::Status SystemReset() override { return Note("system_reset"); }
  absl::Status SystemPowerdown() override { return Note("system_powerdown"); }
  absl::Status SystemWakeup() override { return Note("system_wakeup"); }
  void Quit() override { calls.push_back("quit"); }
  MigrationSettings& migration_settings() override { return settings; }
  MigrationInfo migration_info() const override { return info; }
  absl::Status Migrate(const Channels& channels) override { return Note("migrate " + Text(channels)); }
  absl::Status MigrateIncoming(const Channels& channels) override { return Note("incoming " + Text(channels)); }
  absl::Status MigrateCancel() override { return Note("cancel"); }
  std::vector<CprReadiness> Readiness() override {
    return {{Mode::kReboot, {}}, {Mode::kTransfer, {"RAM is private", "disk"}}, {Mode::kExec, {}}};
  }
  void AdoptFd(absl::string_view fd_name, UniqueFd fd) override { fds[std::string(fd_name)] = std::move(fd); }

  RunState state = RunState::kRunning;
  std::string vm_name, vm_uuid;
  MigrationSettings settings;
  MigrationInfo info;
  absl::Status answer;  // to what may fail
  std::vector<std::string> calls;
  std::map<std::string, UniqueFd> fds;

 private:
  static std::string Text(const Channels& channels) {
    return FormatUri(channels.main) + (channels.cpr.has_value() ? " " + FormatUri(*channels.cpr) : "");
  }
  absl::Status Note(const std::string& call) {
    calls.push_back(call);
    return answer;
  }
};

}  // namespace cpr

#endif  // VMM_MONITOR_FAKE_TARGET_H_
