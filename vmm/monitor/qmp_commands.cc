#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "vmm/monitor/qmp_json.h"
#include "vmm/monitor/qmp_monitor.h"

namespace cpr {
namespace {

using Answer = absl::StatusOr<JsonValue>;

JsonValue Empty() { return JsonMembers({}); }

// A command without arguments that does one thing.
template <absl::Status (MonitorTarget::*kMethod)()>
Answer Simple(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  CPR_RETURN_IF_ERROR((monitor.target().*kMethod)());
  return Empty();
}

Answer QmpCapabilities(QmpMonitor& monitor, ArgReader& args) {
  const auto enable = args.StringList("enable");
  CPR_RETURN_IF_ERROR(args.Finish());
  if (enable.has_value() && !enable->empty()) {
    return absl::InvalidArgumentError(absl::StrCat("Capability '", enable->front(), "' is not available"));
  }
  monitor.set_negotiated();
  return Empty();
}

Answer QueryVersion(QmpMonitor&, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  return VersionJson();
}

Answer QueryCommands(QmpMonitor&, ArgReader& args);

Answer QueryStatus(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  const RunState state = monitor.target().run_state();
  return JsonMembers({{"running", JsonBool(state == RunState::kRunning)}, {"status", JsonText(RunStateName(state))}});
}

Answer QueryName(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  const std::string name = monitor.target().name();
  return name.empty() ? Empty() : JsonMembers({{"name", JsonText(name)}});
}

Answer QueryUuid(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  const std::string uuid = monitor.target().uuid();
  return JsonMembers({{"UUID", JsonText(uuid.empty() ? "00000000-0000-0000-0000-000000000000" : uuid)}});
}

Answer QueryCpusFast(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  std::vector<JsonValue> cpus;
  for (const CpuInfo& cpu : monitor.target().Cpus()) {
    cpus.push_back(JsonMembers({{"cpu-index", JsonInteger(cpu.index)},
                                {"thread-id", JsonInteger(cpu.thread_id)},
                                {"qom-path", JsonText(absl::StrCat("/machine/unattached/device[", cpu.index, "]"))},
                                {"target", JsonText("x86_64")}}));
  }
  return JsonList(std::move(cpus));
}

Answer QueryChardev(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  std::vector<JsonValue> chardevs;
  for (const ChardevInfo& chardev : monitor.target().Chardevs()) {
    chardevs.push_back(JsonMembers({{"label", JsonText(chardev.label)},
                                    {"filename", JsonText(chardev.filename)},
                                    {"frontend-open", JsonBool(chardev.frontend_open)}}));
  }
  return JsonList(std::move(chardevs));
}

Answer QueryMigrate(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  return MigrationInfoJson(monitor.target().migration_info());
}

Answer QueryMigrateParameters(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  const MigrationSettings& settings = monitor.target().migration_settings();
  return JsonMembers(
      {{"mode", JsonText(settings.mode_name())}, {"cpr-exec-command", JsonTexts(settings.exec_command())}});
}

Answer QueryMigrateCapabilities(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  std::vector<JsonValue> capabilities;
  for (const auto& [name, on] : monitor.target().migration_settings().capabilities()) {
    capabilities.push_back(JsonMembers({{"capability", JsonText(name)}, {"state", JsonBool(on)}}));
  }
  return JsonList(std::move(capabilities));
}

Answer QueryCpr(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  std::vector<JsonValue> modes;
  for (const CprReadiness& readiness : monitor.target().Readiness()) {
    modes.push_back(JsonMembers({{"mode", JsonText(ModeName(readiness.mode))},
                                 {"ready", JsonBool(readiness.blockers.empty())},
                                 {"blockers", JsonTexts(readiness.blockers)}}));
  }
  return JsonList(std::move(modes));
}

// {uri} or {channels}, but not both.
absl::StatusOr<Channels> ReadChannels(absl::string_view command, ArgReader& args) {
  const auto uri = args.String("uri");
  const auto objects = args.ObjectList("channels");
  CPR_RETURN_IF_ERROR(args.Finish());
  if (uri.has_value() == objects.has_value()) {
    return absl::InvalidArgumentError(
        uri.has_value()
            ? absl::StrCat("'uri' and 'channels' arguments are mutually exclusive; exactly one of the two should be "
                           "present in '",
                           command, "' qmp command")
            : absl::StrCat("neither 'uri' or 'channels' argument are specified in '", command, "' qmp command"));
  }
  std::vector<Channel> channels;
  if (uri.has_value()) {
    CPR_ASSIGN_OR_RETURN(Address address, ParseUri(*uri));
    channels.push_back({ChannelType::kMain, std::move(address)});
  } else {
    for (const auto& [name, object] : *objects) {
      CPR_ASSIGN_OR_RETURN(Channel channel, ChannelFromObject(*object, ArgSource::kJson, name + "."));
      channels.push_back(std::move(channel));
    }
  }
  return JoinChannels(channels);
}

Answer Migrate(QmpMonitor& monitor, ArgReader& args) {
  args.Bool("detach");  // QMP never waits; the argument exists for old clients
  CPR_ASSIGN_OR_RETURN(const Channels channels, ReadChannels("migrate", args));
  CPR_RETURN_IF_ERROR(monitor.target().migration_settings().CheckOutgoing(channels));
  CPR_RETURN_IF_ERROR(monitor.target().Migrate(channels));
  return Empty();
}

Answer MigrateIncoming(QmpMonitor& monitor, ArgReader& args) {
  CPR_ASSIGN_OR_RETURN(const Channels channels, ReadChannels("migrate_incoming", args));
  CPR_RETURN_IF_ERROR(MigrationSettings::CheckIncoming(channels));
  CPR_RETURN_IF_ERROR(monitor.target().MigrateIncoming(channels));
  return Empty();
}

Answer MigrateSetParameters(QmpMonitor& monitor, ArgReader& args) {
  const auto mode = args.String("mode");
  auto command = args.StringList("cpr-exec-command");
  auto former_name = args.StringList("cpr-exec-args");
  CPR_RETURN_IF_ERROR(args.Finish());
  MigrationSettings& settings = monitor.target().migration_settings();
  if (mode.has_value()) CPR_RETURN_IF_ERROR(settings.SetMode(*mode));
  if (former_name.has_value()) command = std::move(former_name);
  if (command.has_value()) settings.SetExecCommand(*std::move(command));
  return Empty();
}

Answer MigrateSetCapabilities(QmpMonitor& monitor, ArgReader& args) {
  const auto capabilities = args.ObjectList("capabilities");
  if (!capabilities.has_value()) args.FailMissing("capabilities");
  CPR_RETURN_IF_ERROR(args.Finish());
  // All or none.
  MigrationSettings& settings = monitor.target().migration_settings();
  MigrationSettings changed = settings;
  for (const auto& [name, object] : *capabilities) {
    ArgReader entry(*object, ArgSource::kJson, name + ".");
    const std::string capability = entry.RequiredString("capability");
    const auto state = entry.Bool("state");
    if (!state.has_value()) entry.FailMissing("state");
    CPR_RETURN_IF_ERROR(entry.Finish());
    CPR_RETURN_IF_ERROR(changed.SetCapability(capability, *state));
  }
  settings = std::move(changed);
  return Empty();
}

Answer GetFd(QmpMonitor& monitor, ArgReader& args) {
  const std::string name = args.RequiredString("fdname");
  CPR_RETURN_IF_ERROR(args.Finish());
  auto fd = monitor.TakeFd();
  if (!fd.has_value()) return absl::InvalidArgumentError("No file descriptor supplied via SCM_RIGHTS");
  // A name of digits would hide a descriptor's number.
  if (name.empty() || absl::ascii_isdigit(name[0])) {
    return absl::InvalidArgumentError("Parameter 'fdname' expects a name not starting with a digit");
  }
  monitor.target().AdoptFd(name, *std::move(fd));
  return Empty();
}

Answer Quit(QmpMonitor& monitor, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  monitor.target().Quit();
  return Empty();
}

constexpr QmpCommand kCommands[] = {
    {"qmp_capabilities", &QmpCapabilities},
    {"query-version", &QueryVersion},
    {"query-commands", &QueryCommands},
    {"query-status", &QueryStatus},
    {"query-name", &QueryName},
    {"query-uuid", &QueryUuid},
    {"query-cpus-fast", &QueryCpusFast},
    {"query-chardev", &QueryChardev},
    {"query-migrate", &QueryMigrate},
    {"query-migrate-parameters", &QueryMigrateParameters},
    {"query-migrate-capabilities", &QueryMigrateCapabilities},
    {"query-cpr", &QueryCpr},
    {"migrate", &Migrate},
    {"migrate-incoming", &MigrateIncoming},
    {"migrate-set-parameters", &MigrateSetParameters},
    {"migrate-set-capabilities", &MigrateSetCapabilities},
    {"migrate_cancel", &Simple<&MonitorTarget::MigrateCancel>},
    {"stop", &Simple<&MonitorTarget::Stop>},
    {"cont", &Simple<&MonitorTarget::Cont>},
    {"system_wakeup", &Simple<&MonitorTarget::SystemWakeup>},
    {"system_reset", &Simple<&MonitorTarget::SystemReset>},
    {"system_powerdown", &Simple<&MonitorTarget::SystemPowerdown>},
    {"quit", &Quit},
    {"getfd", &GetFd},
};

Answer QueryCommands(QmpMonitor&, ArgReader& args) {
  CPR_RETURN_IF_ERROR(args.Finish());
  std::vector<JsonValue> names;
  for (const QmpCommand& command : kCommands) names.push_back(JsonMembers({{"name", JsonText(command.name)}}));
  return JsonList(std::move(names));
}

}  // namespace

const QmpCommand* FindQmpCommand(absl::string_view name) {
  const auto* const found = std::find_if(std::begin(kCommands), std::end(kCommands),
                                         [name](const QmpCommand& command) { return command.name == name; });
  return found == std::end(kCommands) ? nullptr : found;
}

}  // namespace cpr
