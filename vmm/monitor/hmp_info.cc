#include <algorithm>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "vmm/monitor/hmp_monitor.h"
#include "vmm/options/version.h"

namespace cpr {
namespace {

std::string StatusText(MonitorTarget& target) {
  const RunState state = target.run_state();
  if (state == RunState::kRunning) return "VM status: running\n";
  if (state == RunState::kPaused) return "VM status: paused\n";
  return absl::StrCat("VM status: paused (", RunStateName(state), ")\n");
}

// Of RAM that is copied, if there is any.
std::string ProgressText(const MigrationInfo& info) {
  const uint64_t copy_bytes = info.transferred_bytes + info.remaining_bytes;
  if (copy_bytes == 0) return "";
  const double part = static_cast<double>(info.transferred_bytes) / static_cast<double>(copy_bytes);
  return absl::StrFormat("progress: %d %% of %d kbytes to copy\n", static_cast<int>(part * 100), copy_bytes / 1024);
}

std::string MigrateText(MonitorTarget& target) {
  const MigrationInfo info = target.migration_info();
  std::string text = absl::StrCat("Migration status: ", MigrationStatusName(info.status));
  if (info.status == MigrationStatus::kFailed && !info.error_desc.empty())
    absl::StrAppend(&text, " (", info.error_desc, ")");
  absl::StrAppend(&text, "\n");
  if (info.status == MigrationStatus::kNone) return text;
  absl::StrAppend(&text, "total time: ", absl::ToInt64Milliseconds(info.total_time), " ms\n");
  if (info.status == MigrationStatus::kCompleted) {
    absl::StrAppend(&text, "downtime: ", absl::ToInt64Milliseconds(info.downtime), " ms\n");
  }
  absl::StrAppend(&text, "setup: ", absl::ToInt64Milliseconds(info.setup_time), " ms\n");
  absl::StrAppend(&text, ProgressText(info));
  absl::StrAppend(&text, "transferred ram: ", info.transferred_bytes / 1024, " kbytes\n");
  absl::StrAppend(&text, "remaining ram: ", info.remaining_bytes / 1024, " kbytes\n");
  absl::StrAppend(&text, "total ram: ", info.total_bytes / 1024, " kbytes\n");
  absl::StrAppend(&text, "ram in place: ", info.in_place_bytes / 1024, " kbytes\n");
  for (int i = 0; i < kPhaseCount; ++i) {
    absl::StrAppendFormat(&text, "phase %s: %.3f ms\n", PhaseName(static_cast<Phase>(i)),
                          static_cast<double>(info.phases_ns[static_cast<size_t>(i)]) / 1e6);
  }
  return text;
}

std::string ParametersText(MonitorTarget& target) {
  const MigrationSettings& settings = target.migration_settings();
  std::string text = absl::StrCat("mode: ", settings.mode_name(), "\ncpr-exec-command:");
  for (const std::string& word : settings.exec_command()) absl::StrAppend(&text, " ", word);
  return text + "\n";
}

std::string CapabilitiesText(MonitorTarget& target) {
  std::string text;
  for (const auto& [name, on] : target.migration_settings().capabilities()) {
    absl::StrAppend(&text, name, ": ", on ? "on" : "off", "\n");
  }
  return text;
}

std::string VersionText(MonitorTarget&) {
  return absl::StrFormat("%s (cpr-vmm, speaks QEMU %d.%d.%d)\n", kVersion, kQemuMajor, kQemuMinor, kQemuMicro);
}

std::string CprText(MonitorTarget& target) {
  std::string text;
  for (const CprReadiness& readiness : target.Readiness()) {
    absl::StrAppend(&text, ModeName(readiness.mode), readiness.blockers.empty() ? ": ready\n" : ": blocked\n");
    for (const std::string& blocker : readiness.blockers) absl::StrAppend(&text, "  ", blocker, "\n");
  }
  return text;
}

struct Info {
  absl::string_view name;
  std::string (*text)(MonitorTarget& target);
  absl::string_view help;
};

constexpr Info kInfos[] = {
    {"cpr", &CprText, "show for each mode whether the guest can go by it, or what blocks it"},
    {"migrate", &MigrateText, "show migration status"},
    {"migrate_capabilities", &CapabilitiesText, "show current migration capabilities"},
    {"migrate_parameters", &ParametersText, "show current migration parameters"},
    {"status", &StatusText, "show the current VM status (running|paused)"},
    {"version", &VersionText, "show the version"},
};

}  // namespace

bool RunHmpInfo(HmpMonitor& monitor, absl::string_view what) {
  const auto* const found =
      std::find_if(std::begin(kInfos), std::end(kInfos), [what](const Info& info) { return info.name == what; });
  if (found == std::end(kInfos)) return false;
  monitor.Print(found->text(monitor.target()));
  return true;
}

std::string HmpInfoHelp() {
  std::string text;
  for (const Info& info : kInfos) absl::StrAppend(&text, "info ", info.name, " -- ", info.help, "\n");
  return text;
}

}  // namespace cpr
