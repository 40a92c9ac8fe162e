#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"
#include "vmm/monitor/hmp_monitor.h"
#include "vmm/monitor/words.h"

namespace cpr {
namespace {

struct Args {
  bool detach = false;  // -d was given
  std::vector<std::string> words;
};

struct Command {
  absl::string_view name;
  absl::string_view alias;  // empty: none
  absl::string_view params;
  absl::string_view help;
  bool takes_detach;
  size_t min_words;
  size_t max_words;
  void (*run)(HmpMonitor& monitor, const Args& args);
};
constexpr size_t kAnyNumber = ~size_t{0};

template <absl::Status (MonitorTarget::*kMethod)()>
void Simple(HmpMonitor& monitor, const Args&) {
  monitor.PrintError((monitor.target().*kMethod)());
}

absl::StatusOr<Channels> MainChannel(const std::string& uri) {
  CPR_ASSIGN_OR_RETURN(Address address, ParseUri(uri));
  return Channels{std::move(address), std::nullopt};
}

absl::Status StartMigrate(HmpMonitor& monitor, const Args& args) {
  CPR_ASSIGN_OR_RETURN(const Channels channels, MainChannel(args.words[0]));
  CPR_RETURN_IF_ERROR(monitor.target().migration_settings().CheckOutgoing(channels));
  CPR_RETURN_IF_ERROR(monitor.target().Migrate(channels));
  if (!args.detach) monitor.WaitForMigration();
  return absl::OkStatus();
}

absl::Status StartIncoming(HmpMonitor& monitor, const Args& args) {
  CPR_ASSIGN_OR_RETURN(const Channels channels, MainChannel(args.words[0]));
  CPR_RETURN_IF_ERROR(MigrationSettings::CheckIncoming(channels));
  CPR_RETURN_IF_ERROR(monitor.target().MigrateIncoming(channels));
  // What can be read at once is waited for, so that a script's next line meets the guest. A stream waits for whoever
  // writes to it, and the user must be able to give up.
  const Transport transport = channels.main.transport;
  if (transport == Transport::kFile || transport == Transport::kLuo) monitor.WaitForMigration();
  return absl::OkStatus();
}

void Migrate(HmpMonitor& monitor, const Args& args) { monitor.PrintError(StartMigrate(monitor, args)); }
void MigrateIncoming(HmpMonitor& monitor, const Args& args) { monitor.PrintError(StartIncoming(monitor, args)); }

void SetParameter(HmpMonitor& monitor, const Args& args) {
  MigrationSettings& settings = monitor.target().migration_settings();
  const std::string& name = args.words[0];
  if (name == "cpr-exec-command" || name == "cpr-exec-args") {
    settings.SetExecCommand(std::vector<std::string>(args.words.begin() + 1, args.words.end()));
  } else if (name != "mode") {
    monitor.PrintError(absl::InvalidArgumentError(absl::StrCat("invalid parameter value: ", name)));
  } else if (args.words.size() > 2) {
    monitor.Print("migrate_set_parameter: extraneous characters at the end of line\n");
  } else {
    monitor.PrintError(settings.SetMode(args.words[1]));
  }
}

void SetCapability(HmpMonitor& monitor, const Args& args) {
  const std::string& state = args.words[1];
  if (state != "on" && state != "off") return monitor.Print("Expected 'on' or 'off'\n");
  monitor.PrintError(monitor.target().migration_settings().SetCapability(args.words[0], state == "on"));
}

void Quit(HmpMonitor& monitor, const Args&) {
  monitor.EndWithoutPrompt();
  monitor.target().Quit();
}

void Help(HmpMonitor& monitor, const Args& args);

void Info(HmpMonitor& monitor, const Args& args) {
  if (args.words.empty()) return monitor.Print(HmpInfoHelp());
  if (!RunHmpInfo(monitor, args.words[0])) monitor.Print(absl::StrCat("unknown command: 'info ", args.words[0], "'\n"));
}

constexpr Command kCommands[] = {
    {"cont", "c", "", "resume emulation", false, 0, 0, &Simple<&MonitorTarget::Cont>},
    {"help", "?", "[cmd]", "show the help", false, 0, 1, &Help},
    {"info", "", "[subcommand]", "show various information about the system state", false, 0, 1, &Info},
    {"migrate", "", "[-d] uri", "migrate to URI (using -d to not wait for completion)", true, 1, 1, &Migrate},
    {"migrate_cancel", "", "", "cancel the current VM migration", false, 0, 0, &Simple<&MonitorTarget::MigrateCancel>},
    {"migrate_incoming", "", "uri", "continue an incoming migration from an -incoming defer", false, 1, 1,
     &MigrateIncoming},
    {"migrate_set_capability", "", "capability state", "enable (on) or disable (off) a capability for migration", false,
     2, 2, &SetCapability},
    {"migrate_set_parameter", "", "parameter value", "set a parameter: mode, cpr-exec-command (the rest of the line)",
     false, 2, kAnyNumber, &SetParameter},
    {"quit", "q", "", "quit the VMM", false, 0, 0, &Quit},
    {"stop", "s", "", "stop emulation", false, 0, 0, &Simple<&MonitorTarget::Stop>},
    {"system_powerdown", "", "", "send system power down event", false, 0, 0, &Simple<&MonitorTarget::SystemPowerdown>},
    {"system_reset", "", "", "reset the system", false, 0, 0, &Simple<&MonitorTarget::SystemReset>},
    {"system_wakeup", "", "", "wakeup guest from suspend", false, 0, 0, &Simple<&MonitorTarget::SystemWakeup>},
};

const Command* FindCommand(absl::string_view name) {
  const auto* const found = std::find_if(std::begin(kCommands), std::end(kCommands), [name](const Command& command) {
    return command.name == name || (!command.alias.empty() && command.alias == name);
  });
  return found == std::end(kCommands) ? nullptr : found;
}

std::string HelpLine(const Command& command) {
  return absl::StrCat(command.name, command.alias.empty() ? "" : "|", command.alias, command.params.empty() ? "" : " ",
                      command.params, " -- ", command.help, "\n");
}

void Help(HmpMonitor& monitor, const Args& args) {
  if (!args.words.empty() && args.words[0] == "info") return monitor.Print(HmpInfoHelp());
  if (!args.words.empty()) {
    const Command* command = FindCommand(args.words[0]);
    return monitor.Print(command == nullptr ? absl::StrCat("unknown command: '", args.words[0], "'\n")
                                            : HelpLine(*command));
  }
  for (const Command& command : kCommands) monitor.Print(HelpLine(command));
}

// Only what begins the arguments can be a flag: the words of cpr-exec-command begin with dashes, too.
absl::StatusOr<Args> ParseArgs(const Command& command, absl::string_view text) {
  const auto complain = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(command.name, why));
  };
  Args args;
  auto words = SplitWords(text);
  if (!words.ok()) return complain(absl::StrCat(": ", words.status().message()));
  args.words = *std::move(words);
  if (command.takes_detach && !args.words.empty() && args.words[0].size() > 1 && args.words[0][0] == '-') {
    if (args.words[0] != "-d") return complain(absl::StrCat(": unsupported option ", args.words[0]));
    args.detach = true;
    args.words.erase(args.words.begin());
  }
  if (args.words.size() < command.min_words) return complain(": string expected");
  if (args.words.size() > command.max_words) return complain(": extraneous characters at the end of line");
  return args;
}

}  // namespace

void RunHmpLine(HmpMonitor& monitor, absl::string_view line) {
  const auto end = std::find_if(line.begin(), line.end(), absl::ascii_isspace);
  const absl::string_view name = line.substr(0, static_cast<size_t>(end - line.begin()));
  const Command* command = FindCommand(name);
  if (command == nullptr) return monitor.Print(absl::StrCat("unknown command: '", name, "'\n"));
  const auto args = ParseArgs(*command, line.substr(name.size()));
  if (!args.ok()) {
    return monitor.Print(
        absl::StrCat(args.status().message(), "\nTry \"help ", command->name, "\" for more information\n"));
  }
  command->run(monitor, *args);
}

}  // namespace cpr
