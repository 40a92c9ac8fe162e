#include "vmm/monitor/qmp_json.h"

#include <utility>
#include <vector>

#include "vmm/options/version.h"

namespace cpr {
namespace {

absl::string_view EventName(MonitorEvent::Kind kind) {
  switch (kind) {
    case MonitorEvent::Kind::kStop:
      return "STOP";
    case MonitorEvent::Kind::kResume:
      return "RESUME";
    case MonitorEvent::Kind::kSuspend:
      return "SUSPEND";
    case MonitorEvent::Kind::kWakeup:
      return "WAKEUP";
    case MonitorEvent::Kind::kReset:
      return "RESET";
    case MonitorEvent::Kind::kShutdown:
      return "SHUTDOWN";
    case MonitorEvent::Kind::kMigration:
      return "MIGRATION";
    case MonitorEvent::Kind::kUnspecified:
      break;
  }
  return "UNSPECIFIED";
}

JsonValue Milliseconds(absl::Duration time) { return JsonInteger(absl::ToInt64Milliseconds(time)); }

JsonValue RamJson(const MigrationInfo& info) {
  return JsonMembers({{"transferred", JsonInteger(static_cast<int64_t>(info.transferred_bytes))},
                      {"remaining", JsonInteger(static_cast<int64_t>(info.remaining_bytes))},
                      {"total", JsonInteger(static_cast<int64_t>(info.total_bytes))},
                      {"in-place", JsonInteger(static_cast<int64_t>(info.in_place_bytes))}});
}

JsonValue PhasesJson(const MigrationInfo& info) {
  std::vector<std::pair<absl::string_view, JsonValue>> phases;
  for (int i = 0; i < kPhaseCount; ++i) {
    phases.emplace_back(PhaseName(static_cast<Phase>(i)), JsonInteger(info.phases_ns[static_cast<size_t>(i)]));
  }
  return JsonMembers(std::move(phases));
}

}  // namespace

JsonValue VersionJson() {
  return JsonMembers({{"qemu", JsonMembers({{"major", JsonInteger(kQemuMajor)},
                                            {"minor", JsonInteger(kQemuMinor)},
                                            {"micro", JsonInteger(kQemuMicro)}})},
                      {"package", JsonText("cpr-vmm")}});
}

JsonValue EventJson(const MonitorEvent& event) {
  const int64_t microseconds = absl::ToUnixMicros(event.time);
  std::vector<std::pair<absl::string_view, JsonValue>> members = {
      {"event", JsonText(EventName(event.kind))},
      {"timestamp", JsonMembers({{"seconds", JsonInteger(microseconds / 1000000)},
                                 {"microseconds", JsonInteger(microseconds % 1000000)}})}};
  if (event.kind == MonitorEvent::Kind::kMigration) {
    members.emplace_back("data", JsonMembers({{"status", JsonText(MigrationStatusName(event.status))}}));
  }
  if (event.kind == MonitorEvent::Kind::kReset || event.kind == MonitorEvent::Kind::kShutdown) {
    members.emplace_back("data",
                         JsonMembers({{"guest", JsonBool(event.by_guest)}, {"reason", JsonText(event.reason)}}));
  }
  return JsonMembers(std::move(members));
}

JsonValue MigrationInfoJson(const MigrationInfo& info) {
  std::vector<std::pair<absl::string_view, JsonValue>> members = {
      {"status", JsonText(MigrationStatusName(info.status))}};
  if (info.status == MigrationStatus::kNone) return JsonMembers(std::move(members));
  members.emplace_back("total-time", Milliseconds(info.total_time));
  members.emplace_back("setup-time", Milliseconds(info.setup_time));
  if (info.status == MigrationStatus::kCompleted) members.emplace_back("downtime", Milliseconds(info.downtime));
  members.emplace_back("ram", RamJson(info));
  members.emplace_back("x-phases", PhasesJson(info));
  if (info.status == MigrationStatus::kFailed) members.emplace_back("error-desc", JsonText(info.error_desc));
  return JsonMembers(std::move(members));
}

}  // namespace cpr
