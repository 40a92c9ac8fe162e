#include "vmm/monitor/migration_settings.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "vmm/options/options.h"

namespace cpr {
namespace {

constexpr Mode kModes[] = {Mode::kReboot, Mode::kTransfer, Mode::kExec, Mode::kLuo};

struct Conflict {
  absl::string_view capability;
  absl::string_view name;  // as QEMU's message has it
};
constexpr Conflict kConflicts[] = {
    {"postcopy-ram", "postcopy"},
    {"background-snapshot", "background snapshot"},
    {"x-colo", "COLO"},
};

bool IsConnection(const Address& address) {
  return address.transport == Transport::kUnix || address.transport == Transport::kTcp;
}

bool IsStream(const Address& address) {
  return IsConnection(address) || address.transport == Transport::kExec || address.transport == Transport::kFd;
}

absl::Status StreamRefused(const Address& address, Mode mode, absl::string_view instead) {
  return absl::InvalidArgumentError(
      absl::StrCat(FormatUri(address), " cannot be used with ", ModeName(mode),
                   ": it is a stream, and the old program is gone before the new one reads; use ", instead));
}

absl::Status WrongMode(const Address& address, absl::string_view mode) {
  return absl::InvalidArgumentError(absl::StrCat(FormatUri(address), " can be used with ", mode, " only"));
}

absl::Status CheckPort(const Address& address) {
  if (address.transport != Transport::kTcp || address.port != "0") return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(FormatUri(address), ": the port may not be 0, the peer could not know it"));
}

}  // namespace

absl::Status MigrationSettings::SetMode(absl::string_view name) {
  if (name == "normal") {
    mode_.reset();
    return absl::OkStatus();
  }
  for (const Mode mode : kModes) {
    if (ModeName(mode) != name) continue;
    mode_ = mode;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("Parameter 'mode' does not accept value '", name, "'"));
}

absl::Status MigrationSettings::SetCapability(absl::string_view name, bool on) {
  for (const Conflict& conflict : kConflicts) {
    if (conflict.capability != name) continue;
    if (!on) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("Cannot use ", conflict.name, " with CPR"));
  }
  if (name == "x-ignore-shared") {
    ignore_shared_ = on;
  } else if (name == "x-mapped-restore") {
    mapped_restore_ = on;
  } else if (name == "events") {
    events_ = on;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("Parameter 'capability' does not accept value '", name, "'"));
  }
  return absl::OkStatus();
}

std::vector<std::pair<absl::string_view, bool>> MigrationSettings::capabilities() const {
  return {{"events", events_}, {"x-ignore-shared", ignore_shared_}, {"x-mapped-restore", mapped_restore_}};
}

absl::Status MigrationSettings::CheckTransfer(const Channels& channels) const {
  if (!channels.cpr.has_value()) return absl::InvalidArgumentError("missing 'cpr' migration channel");
  const Transport transport = channels.main.transport;
  if (transport == Transport::kFile || transport == Transport::kMemfd || transport == Transport::kLuo) {
    return absl::InvalidArgumentError("Migration requires streamable transport (eg unix)");
  }
  if (transport == Transport::kExec) {
    return absl::InvalidArgumentError(absl::StrCat(
        FormatUri(channels.main),
        " cannot be used with cpr-transfer: the guest would stand still while a command passes its state on; use "
        "unix:, tcp: or fd:"));
  }
  return CheckPort(channels.main);
}

absl::Status MigrationSettings::CheckReboot(const Address& main) const {
  // A command or a pipe of the user's stays when this program has gone.
  if (IsConnection(main)) return StreamRefused(main, Mode::kReboot, "file: or exec:");
  if (main.transport == Transport::kMemfd) return WrongMode(main, "cpr-exec");
  return absl::OkStatus();
}

namespace {

// A path as it is meant: the new program starts in this one's folder.
Address Resolved(Address address) {
  std::error_code error;
  const auto absolute = std::filesystem::absolute(address.path, error);
  if (!error && address.transport == Transport::kFile) address.path = absolute.lexically_normal().string();
  return address;
}

// The new program finds its guest whatever its -incoming says; one that says something else was meant otherwise.
absl::Status CheckIncomingWords(absl::Span<const std::string> words, const Address& main) {
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (!HasIncomingOption({words[i], words[i + 1]})) continue;
    const absl::StatusOr<Address> named = ParseUri(words[i + 1]);
    if (named.ok() && Resolved(*named) == Resolved(main)) continue;
    return absl::InvalidArgumentError(absl::StrCat("cpr-exec-command has -incoming ", words[i + 1],
                                                   ", but the state goes to ", FormatUri(main),
                                                   ": give the same in both places"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MigrationSettings::CheckExec(const Address& main) const {
  if (exec_command_.empty()) return absl::FailedPreconditionError("cpr-exec mode requires setting cpr-exec-command");
  if (!HasIncomingOption(exec_command_)) {
    return absl::FailedPreconditionError(
        "cpr-exec-command has no -incoming: the new program would start another guest");
  }
  if (IsStream(main)) return StreamRefused(main, Mode::kExec, "memfd: or file:");
  if (main.transport != Transport::kFile && main.transport != Transport::kMemfd) return absl::OkStatus();  // see below
  if (main.offset_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        FormatUri(main), ": cpr-exec needs a file of its own for the state, without an offset, or memfd:"));
  }
  return CheckIncomingWords(exec_command_, main);
}

absl::Status MigrationSettings::CheckLuo(const Address& main) {
  if (main.transport == Transport::kLuo) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      FormatUri(main), " cannot be used with cpr-luo: the state lies beside the RAM, in a session; use luo:SESSION"));
}

absl::Status MigrationSettings::CheckOutgoing(const Channels& channels) const {
  if (!mode_.has_value()) {
    return absl::FailedPreconditionError(
        "mode normal is live migration, which this program does not do; set mode to cpr-reboot, cpr-transfer, "
        "cpr-exec or cpr-luo");
  }
  if (*mode_ == Mode::kTransfer) return CheckTransfer(channels);
  if (channels.cpr.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("the 'cpr' channel is for cpr-transfer, and mode is ", mode_name()));
  }
  if (*mode_ == Mode::kLuo) return CheckLuo(channels.main);
  CPR_RETURN_IF_ERROR(*mode_ == Mode::kExec ? CheckExec(channels.main) : CheckReboot(channels.main));
  return channels.main.transport == Transport::kLuo ? WrongMode(channels.main, "cpr-luo") : absl::OkStatus();
}

absl::Status MigrationSettings::CheckIncoming(const Channels& channels) {
  if (channels.cpr.has_value()) {
    return absl::InvalidArgumentError("the 'cpr' channel can be given on the command line only, with -incoming");
  }
  return CheckPort(channels.main);
}

}  // namespace cpr
