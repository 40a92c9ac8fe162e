#include <fcntl.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/modes/luo.h"
#include "libcpr/modes/reboot.h"
#include "libcpr/preserve/live_update.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/preserve/stream_socket.h"
#include "vmm/app/migration_driver.h"

// What each mode is given for the channels that a user names.

namespace cpr {
namespace {

absl::StatusOr<uint16_t> PortOf(const Address& address) {
  uint32_t port = 0;
  if (!absl::SimpleAtoi(address.port, &port) || port == 0 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(FormatUri(address), ": '", address.port, "' is not a port number"));
  }
  return static_cast<uint16_t>(port);
}

absl::StatusOr<UniqueFd> ConnectAddress(const Address& address) {
  if (address.transport == Transport::kUnix) return ConnectUnixStream(address.path);
  CPR_ASSIGN_OR_RETURN(const uint16_t port, PortOf(address));
  return ConnectTcp(address.host, port);
}

absl::Status NotStreamable() { return absl::InvalidArgumentError("Migration requires streamable transport (eg unix)"); }

absl::Status NotHere(const Address& address, absl::string_view instead) {
  return absl::InvalidArgumentError(absl::StrCat(FormatUri(address), " cannot be used here; use ", instead));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Outgoing>> MigrationDriver::MakeOutgoing(const Channels& channels, OutgoingVm* vm) {
  switch (settings_->mode().value_or(Mode::kUnspecified)) {
    case Mode::kTransfer:
      return MakeTransfer(channels, vm);
    case Mode::kExec:
      return MakeExec(channels.main, vm);
    case Mode::kReboot:
      return MakeReboot(channels.main, vm);
    case Mode::kLuo:
      return CreateLuoOutgoing({channels.main.name, [this](Phase phase) { OnPhase(phase); }}, vm);
    case Mode::kUnspecified:
      break;
  }
  return absl::InternalError("no mode");
}

absl::StatusOr<std::unique_ptr<Outgoing>> MigrationDriver::MakeTransfer(const Channels& channels, OutgoingVm* vm) {
  CPR_ASSIGN_OR_RETURN(PacketSocket socket, PacketSocket::Connect(channels.cpr->path));
  TransferOutgoingOptions options{std::move(socket), nullptr, {}, [this](Phase phase) { OnPhase(phase); }};
  const Address main = channels.main;
  switch (main.transport) {
    case Transport::kUnix:
      // The same path twice: one channel for both.
      if (main.path != channels.cpr->path) options.connect_main = [main] { return ConnectAddress(main); };
      break;
    case Transport::kTcp:
      CPR_RETURN_IF_ERROR(PortOf(main).status());
      options.connect_main = [main] { return ConnectAddress(main); };
      break;
    case Transport::kFd: {
      CPR_ASSIGN_OR_RETURN(UniqueFd stream, fds_.TakePipeOrSocket(main.name, NamedFds::Use::kWrite));
      options.connect_main = [stream = std::make_shared<UniqueFd>(std::move(stream))]() -> absl::StatusOr<UniqueFd> {
        return std::move(*stream);
      };
      break;
    }
    default:
      return NotStreamable();
  }
  return CreateTransferOutgoing(std::move(options), vm);
}

absl::StatusOr<std::unique_ptr<Outgoing>> MigrationDriver::MakeReboot(const Address& main, OutgoingVm* vm) {
  RebootOutgoingOptions options;
  options.path = main.transport == Transport::kFile ? main.path : FormatUri(main);
  options.offset_bytes = main.offset_bytes;
  options.ignore_shared = settings_->ignore_shared();
  options.observer = [this](Phase phase) { OnPhase(phase); };
  options.command = main.command;
  if (main.transport == Transport::kFd) {
    CPR_ASSIGN_OR_RETURN(options.stream, fds_.TakeStream(main.name, NamedFds::Use::kWrite));
  }
  return CreateRebootOutgoing(std::move(options), vm);
}

absl::StatusOr<std::unique_ptr<Outgoing>> MigrationDriver::MakeExec(const Address& main, OutgoingVm* vm) {
  ExecOutgoingOptions options;
  options.command = settings_->exec_command();
  options.own_argv = own_argv_;
  options.close_in_keeper = hooks_.monitor_fds;
  options.observer = [this](Phase phase) { OnPhase(phase); };
  if (main.transport == Transport::kFile) {
    if (main.offset_bytes != 0) return NotHere(main, "a file of its own, without an offset, or memfd:");
    CPR_ASSIGN_OR_RETURN(options.state_file, OpenFile(main.path, O_RDWR | O_CREAT | O_TRUNC));
  } else if (main.transport != Transport::kMemfd) {
    return NotHere(main, "memfd: or file:");
  }
  return CreateExecOutgoing(std::move(options), vm);
}

absl::StatusOr<LiveUpdateSession*> MigrationDriver::FindSession(const std::string& name) {
  auto session = sessions_.find(name);
  if (session == sessions_.end()) {
    CPR_ASSIGN_OR_RETURN(LiveUpdate device, LiveUpdate::Open());
    CPR_ASSIGN_OR_RETURN(LiveUpdateSession retrieved, device.RetrieveSession(name));
    session = sessions_.emplace(name, std::move(retrieved)).first;
  }
  return &session->second;
}

absl::Status MigrationDriver::StartLuo(const std::string& name, IncomingVm* vm) {
  LuoIncomingOptions options;
  options.session = [this, name] { return FindSession(name); };
  options.observer = [this](Phase phase) { OnPhase(phase); };
  CPR_ASSIGN_OR_RETURN(incoming_, CreateLuoIncoming(std::move(options), vm));
  session_ = name;
  Begin(Mode::kLuo);
  return Watch(incoming_->fd(), &MigrationDriver::AdvanceIncoming);
}

absl::Status MigrationDriver::StartMain(const Address& main) {
  switch (main.transport) {
    case Transport::kUnix: {
      // One unix channel for both: the cpr channel listens already.
      if (main.path == cpr_path_) return absl::OkStatus();
      CPR_ASSIGN_OR_RETURN(UniqueFd listener, ListenUnixStream(main.path));
      return transfer_incoming_->ListenMain(std::move(listener));
    }
    case Transport::kTcp: {
      CPR_ASSIGN_OR_RETURN(const uint16_t port, PortOf(main));
      CPR_ASSIGN_OR_RETURN(UniqueFd listener, ListenTcp(main.host, port));
      return transfer_incoming_->ListenMain(std::move(listener));
    }
    case Transport::kFd: {
      CPR_ASSIGN_OR_RETURN(UniqueFd stream, fds_.TakePipeOrSocket(main.name, NamedFds::Use::kRead));
      return transfer_incoming_->AdoptMain(std::move(stream));
    }
    default:
      return NotStreamable();
  }
}

absl::Status MigrationDriver::AwaitTransfer(const Address& cpr, const std::optional<Address>& main, IncomingVm* vm) {
  CPR_ASSIGN_OR_RETURN(PacketSocket listener, PacketSocket::Listen(cpr.path));
  auto refused = [this](const absl::Status& why) { hooks_.log(absl::StrCat("cpr channel: ", why.message())); };
  TransferIncomingOptions options{.cpr_listener = std::move(listener), .on_refused = refused};
  options.observer = [this](Phase phase) { OnPhase(phase); };
  CPR_ASSIGN_OR_RETURN(std::unique_ptr<TransferIncoming> incoming, CreateTransferIncoming(std::move(options), vm));
  transfer_incoming_ = incoming.get();
  incoming_ = std::move(incoming);
  cpr_path_ = cpr.path;
  mode_ = Mode::kTransfer;
  CPR_RETURN_IF_ERROR(Watch(incoming_->fd(), &MigrationDriver::AdvanceIncoming));
  return main.has_value() ? StartIncoming(*main, {}, vm) : absl::OkStatus();
}

absl::Status MigrationDriver::StartIncoming(const Address& main, RebootRam ram, IncomingVm* vm) {
  if (transfer_incoming_ != nullptr) return StartMain(main);
  if (incoming_ != nullptr) return absl::FailedPreconditionError("The incoming migration has already been started");
  if (main.transport == Transport::kUnix || main.transport == Transport::kTcp) {
    return absl::InvalidArgumentError(absl::StrCat(
        FormatUri(main), ": a cpr-transfer needs a cpr channel, too: a second -incoming on the command line"));
  }
  if (main.transport == Transport::kMemfd) return NotHere(main, "file:, exec:, fd: or luo:");
  if (main.transport == Transport::kLuo) return StartLuo(main.name, vm);
  RebootIncomingOptions options;
  options.path = main.transport == Transport::kFile ? main.path : FormatUri(main);
  options.offset_bytes = main.offset_bytes;
  options.ignore_shared = ram.ignore_shared;
  options.map_private = ram.map_private;
  options.observer = [this](Phase phase) { OnPhase(phase); };
  options.command = main.command;
  if (main.transport == Transport::kFd) {
    CPR_ASSIGN_OR_RETURN(options.stream, fds_.TakeStream(main.name, NamedFds::Use::kRead));
  }
  CPR_ASSIGN_OR_RETURN(incoming_, CreateRebootIncoming(std::move(options), vm));
  Begin(Mode::kReboot);
  return Watch(incoming_->fd(), &MigrationDriver::AdvanceIncoming);
}

}  // namespace cpr
