#include "vmm/app/migration_driver.h"

#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_join.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/preserve/keeper.h"

namespace cpr {

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
    session_.clear();
    return hooks_.failed(done.status());
  }
  if (exec_incoming_ != nullptr) WatchKeeper(exec_incoming_->keeper_pid());
  hooks_.arrived();
  // The guest runs: closing what brought it here has time.
  loop_->Post([this] {
    DropIncoming();
    sessions_.erase(session_);
  });
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

// Until its RAM is all there, a state that comes in is let go of as if it had not come. The rest is one step.
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
  const auto describe = [&info](const auto& handover) {
    const Outgoing::RamProgress ram = handover.ram_progress();
    info.phases_ns = handover.phase_times_ns();
    info.downtime = absl::Nanoseconds(handover.pause_ns());
    info.in_place_bytes = ram.in_place_bytes;
    info.transferred_bytes = ram.copied_bytes;
    info.remaining_bytes = ram.copy_bytes - ram.copied_bytes;
    info.total_bytes = ram.in_place_bytes + ram.copy_bytes;
  };
  if (outgoing_ != nullptr) {
    describe(*outgoing_);
  } else if (incoming_ != nullptr) {
    describe(*incoming_);
  }
  info.setup_time = absl::Nanoseconds(info.phases_ns[static_cast<size_t>(Phase::kCheck)] +
                                      info.phases_ns[static_cast<size_t>(Phase::kPrepare)]);
  return info;
}

}  // namespace cpr
