#include "vmm/app/migration_driver.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/reboot.h"
#include "libcpr/preserve/keeper.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/preserve/stream_socket.h"

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

MigrationDriver::MigrationDriver(EventLoop* loop, const MigrationSettings* settings, std::vector<std::string> own_argv,
                                 Hooks hooks)
    : loop_(loop), settings_(settings), own_argv_(std::move(own_argv)), hooks_(std::move(hooks)) {}

MigrationDriver::~MigrationDriver() {
  if (outgoing_ != nullptr) loop_->Unwatch(outgoing_->fd());
  if (incoming_ != nullptr) loop_->Unwatch(incoming_->fd());
  if (keeper_pidfd_.ok()) loop_->Unwatch(keeper_pidfd_.get());
}

absl::Status MigrationDriver::StartOutgoing(const Channels& channels, OutgoingVm* vm) {
  if (outgoing_active()) return absl::FailedPreconditionError("There's a migration process in progress");
  const Mode mode = settings_->mode().value_or(Mode::kUnspecified);
  const std::vector<std::string> blockers = vm->Blockers(mode);
  if (!blockers.empty()) return absl::FailedPreconditionError(absl::StrJoin(blockers, "; "));
  CPR_ASSIGN_OR_RETURN(std::unique_ptr<Outgoing> outgoing, MakeOutgoing(channels, vm));
  outgoing_ = std::move(outgoing);
  Begin(mode);
  const absl::Status watched = Watch(outgoing_->fd(), &MigrationDriver::AdvanceOutgoing);
  // The first step comes from the loop, so that the monitor's answer goes out before a handover can end this program.
  loop_->Post([this] { AdvanceOutgoing(); });
  return watched;
}

absl::StatusOr<std::unique_ptr<Outgoing>> MigrationDriver::MakeOutgoing(const Channels& channels, OutgoingVm* vm) {
  switch (settings_->mode().value_or(Mode::kUnspecified)) {
    case Mode::kTransfer:
      return MakeTransfer(channels, vm);
    case Mode::kExec:
      return MakeExec(channels.main, vm);
    case Mode::kReboot:
      return MakeReboot(channels.main, vm);
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
  return main.has_value() ? StartIncoming(*main, false, vm) : absl::OkStatus();
}

absl::Status MigrationDriver::StartIncoming(const Address& main, bool ignore_shared, IncomingVm* vm) {
  if (transfer_incoming_ != nullptr) return StartMain(main);
  if (incoming_ != nullptr) return absl::FailedPreconditionError("The incoming migration has already been started");
  if (main.transport == Transport::kUnix || main.transport == Transport::kTcp) {
    return absl::InvalidArgumentError(absl::StrCat(
        FormatUri(main), ": a cpr-transfer needs a cpr channel, too: a second -incoming on the command line"));
  }
  if (main.transport == Transport::kMemfd || main.transport == Transport::kLuo) {
    return NotHere(main, "file:, exec: or fd:");
  }
  RebootIncomingOptions options;
  options.path = main.transport == Transport::kFile ? main.path : FormatUri(main);
  options.offset_bytes = main.offset_bytes;
  options.ignore_shared = ignore_shared;
  options.observer = [this](Phase phase) { OnPhase(phase); };
  options.command = main.command;
  if (main.transport == Transport::kFd) {
    CPR_ASSIGN_OR_RETURN(options.stream, fds_.TakeStream(main.name, NamedFds::Use::kRead));
  }
  CPR_ASSIGN_OR_RETURN(incoming_, CreateRebootIncoming(std::move(options), vm));
  Begin(Mode::kReboot);
  return Watch(incoming_->fd(), &MigrationDriver::AdvanceIncoming);
}

absl::Status MigrationDriver::StartExecIncoming(std::unique_ptr<ExecHandoff> handoff, IncomingVm* vm) {
  returned_because_ = handoff->returned_because();
  CPR_ASSIGN_OR_RETURN(std::unique_ptr<ExecIncoming> incoming,
                       CreateExecIncoming(std::move(handoff), {[this](Phase phase) { OnPhase(phase); }}, vm));
  exec_incoming_ = incoming.get();
  incoming_ = std::move(incoming);
  Begin(Mode::kExec);
  // At once, not from the loop: the guest stands still.
  AdvanceIncoming();
  return absl::OkStatus();
}

absl::Status MigrationDriver::Watch(int fd, void (MigrationDriver::*advance)()) {
  return loop_->Watch(fd, EPOLLIN, [this, advance](uint32_t) { (this->*advance)(); });
}

void MigrationDriver::AdvanceOutgoing() {
  if (!outgoing_active()) return;
  const absl::StatusOr<bool> done = outgoing_->Advance();
  if (done.ok() && !*done) return;
  loop_->Unwatch(outgoing_->fd());
  Finish(done.status());
  if (!done.ok()) return DropOutgoing();
  hooks_.gone();
}

// What has been measured is kept; the fds are not. After a success Reclaim needs all of it.
void MigrationDriver::DropOutgoing() {
  info_ = info();
  outgoing_.reset();
}

void MigrationDriver::AdvanceIncoming() {
  const absl::StatusOr<bool> done = incoming_->Advance();
  if (done.ok() && !*done) return;
  loop_->Unwatch(incoming_->fd());
  Finish(done.status());
  if (!done.ok()) {
    DropIncoming();  // room for another try
    return hooks_.failed(done.status());
  }
  if (exec_incoming_ != nullptr) WatchKeeper(exec_incoming_->keeper_pid());
  hooks_.arrived();
  // The guest runs: closing what brought it here has time.
  loop_->Post([this] { DropIncoming(); });
}

// What has been measured is kept.
void MigrationDriver::DropIncoming() {
  info_ = info();
  incoming_.reset();
  transfer_incoming_ = nullptr;
  exec_incoming_ = nullptr;
}

void MigrationDriver::WatchKeeper(pid_t pid) {
  if (pid < 0) return;
  keeper_pidfd_.Reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!keeper_pidfd_.ok()) return;
  const absl::Status watched = loop_->Watch(keeper_pidfd_.get(), EPOLLIN, [this, pid](uint32_t) {
    loop_->Unwatch(keeper_pidfd_.get());
    keeper_pidfd_.Reset();
    ReapKeeper(pid).IgnoreError();
  });
  if (!watched.ok()) hooks_.log(std::string(watched.message()));
}

absl::Status MigrationDriver::Cancel() {
  if (!outgoing_active()) {
    CancelIncoming();
    return absl::OkStatus();
  }
  SetStatus(MigrationStatus::kCancelling);
  const absl::Status status = outgoing_->Cancel();
  loop_->Unwatch(outgoing_->fd());
  if (absl::IsCancelled(status)) {
    Finish(status);
    DropOutgoing();
    return absl::OkStatus();
  }
  Finish(absl::OkStatus());
  hooks_.gone();
  return status;
}

// A state that still streams in has changed nothing yet: it is let go of. What has come further is one step.
void MigrationDriver::CancelIncoming() {
  if (incoming_ == nullptr || incoming_->mode() != Mode::kReboot || IsFinal(info_.status)) return;
  loop_->Unwatch(incoming_->fd());
  SetStatus(MigrationStatus::kCancelling);
  const absl::Status why = absl::CancelledError("the handover was cancelled");
  Finish(why);
  DropIncoming();
  hooks_.failed(why);
}

absl::Status MigrationDriver::Reclaim() {
  if (outgoing_ == nullptr) return absl::FailedPreconditionError("the guest has not been handed over");
  CPR_RETURN_IF_ERROR(outgoing_->Reclaim());
  outgoing_.reset();
  return absl::OkStatus();
}

void MigrationDriver::Begin(Mode mode) {
  mode_ = mode;
  info_ = MigrationInfo();
  began_ns_ = MonotonicNs();
  ended_ns_ = 0;
}

void MigrationDriver::OnPhase(Phase phase) {
  if (began_ns_ == 0) Begin(mode_);
  if (hooks_.phase) hooks_.phase(phase);
  switch (phase) {
    case Phase::kCheck:
      return SetStatus(MigrationStatus::kSetup);
    case Phase::kPrepare:
      return SetStatus(MigrationStatus::kActive);
    case Phase::kStop:
    case Phase::kSave:
      return SetStatus(MigrationStatus::kDevice);
    case Phase::kCommit:
    case Phase::kResume:
      return;
  }
}

void MigrationDriver::SetStatus(MigrationStatus status) {
  if (info_.status == status) return;
  info_.status = status;
  hooks_.status_changed(status);
}

void MigrationDriver::Finish(const absl::Status& status) {
  ended_ns_ = MonotonicNs();
  // The old program of a cpr-exec that got its guest back: it is running, but what its user asked for has failed.
  const bool returned = status.ok() && returned_because_.has_value();
  info_.error_desc = returned ? *returned_because_ : std::string(status.message());
  SetStatus(absl::IsCancelled(status)  ? MigrationStatus::kCancelled
            : status.ok() && !returned ? MigrationStatus::kCompleted
                                       : MigrationStatus::kFailed);
}

MigrationInfo MigrationDriver::info() const {
  MigrationInfo info = info_;
  if (began_ns_ == 0) return info;
  info.total_time = absl::Nanoseconds((ended_ns_ != 0 ? ended_ns_ : MonotonicNs()) - began_ns_);
  if (outgoing_ != nullptr) {
    const Outgoing::RamProgress& ram = outgoing_->ram_progress();
    info.phases_ns = outgoing_->phase_times_ns();
    info.downtime = absl::Nanoseconds(outgoing_->pause_ns());
    info.in_place_bytes = ram.in_place_bytes;
    info.transferred_bytes = ram.copied_bytes;
    info.remaining_bytes = ram.copy_bytes - ram.copied_bytes;
    info.total_bytes = ram.in_place_bytes + ram.copy_bytes;
  } else if (incoming_ != nullptr) {
    info.phases_ns = incoming_->phase_times_ns();
    info.downtime = absl::Nanoseconds(incoming_->pause_ns());
  }
  info.setup_time = absl::Nanoseconds(info.phases_ns[static_cast<size_t>(Phase::kCheck)] +
                                      info.phases_ns[static_cast<size_t>(Phase::kPrepare)]);
  return info;
}

}  // namespace cpr
