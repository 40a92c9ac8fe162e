#include "vmm/app/app.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/app/app_handover.h"
#include "vmm/options/description.h"
#include "vmm/sandbox/sandbox.h"

namespace cpr {
namespace {

// QEMU's exit code when what it was told cannot be done.
constexpr int kFailureExitCode = 1;

}  // namespace

absl::StatusOr<std::unique_ptr<App>> App::Create(Setup setup) {
  auto app = std::unique_ptr<App>(new App(std::move(setup)));
  const absl::Status started = app->Start();
  if (started.ok()) return app;
  if (app->setup_.handoff != nullptr) app->setup_.handoff->ReturnToOldProgram(started).IgnoreError();
  return started;
}

App::App(Setup setup) : setup_(std::move(setup)) {}

// What serves comes down before what is served.
App::~App() {
  monitors_.reset();
  migration_.reset();
  leaving_.reset();
  arriving_.reset();
  machine_.reset();
  if (signals_.ok()) loop_->Unwatch(signals_.get());
}

absl::Status App::Start() {
  CPR_ASSIGN_OR_RETURN(loop_, EventLoop::Create());
  events_ = std::make_unique<EventOutbox>(loop_.get(), [this](const MonitorEvent& event) {
    if (monitors_ != nullptr) monitors_->Broadcast(event);
  });
  CPR_RETURN_IF_ERROR(WatchSignals());
  CPR_ASSIGN_OR_RETURN(system_, kvm::System::Create());
  migration_ = std::make_unique<MigrationDriver>(loop_.get(), &settings_, setup_.argv, DriverHooks());
  const bool by_exec = setup_.handoff != nullptr;
  if (by_exec) CPR_RETURN_IF_ERROR(EnterSandboxBeforeGuest());
  CPR_RETURN_IF_ERROR(by_exec || setup_.options.incoming.has_value() ? StartWaiting() : StartMachine());
  CPR_ASSIGN_OR_RETURN(monitors_, MonitorServer::Create(setup_.options.monitors, this, loop_.get()));
  const absl::Status status = Annotate(EnterSandbox(setup_.options.sandbox), "-sandbox");
  if (status.ok() || !by_exec) return status;
  Say(std::string(status.message()));  // the guest runs here already: no reason to end it
  return absl::OkStatus();
}

// A guest that comes by execve runs at once, and what fails after that could not send it back: first the filter, with
// the way back left open. Not so under the filter of the program before: to find that it is the same has time until the
// guest runs.
absl::Status App::EnterSandboxBeforeGuest() {
  if (StartedInSandbox()) return absl::OkStatus();
  SandboxOption with_way_back = setup_.options.sandbox;
  with_way_back.spawn = true;
  return Annotate(EnterSandbox(with_way_back), "-sandbox");
}

absl::Status App::CheckSpawn(const Address& main) const {
  const SandboxOption& sandbox = setup_.options.sandbox;
  if (!sandbox.on || sandbox.spawn || main.transport != Transport::kExec) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(FormatUri(main), ": -sandbox spawn=deny lets no command be run"));
}

absl::Status App::WatchSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow (RLIMIT_FSIZE) is an error, as a full disk is
  sigset_t mask;
  sigemptyset(&mask);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&mask, number);
  if (::sigprocmask(SIG_BLOCK, &mask, nullptr) != 0) return ErrnoStatus(errno, "sigprocmask");
  signals_.Reset(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.ok()) return ErrnoStatus(errno, "signalfd");
  return loop_->Watch(signals_.get(), EPOLLIN, [this](uint32_t) {
    BroadcastShutdown(/*by_guest=*/false, "host-signal");
    loop_->Stop();
  });
}

absl::Status App::StartMachine() {
  const auto on_event = [this](GuestEvent event, const std::string& text) { OnGuestEvent(event, text); };
  CPR_ASSIGN_OR_RETURN(machine_, CreateMachine(&*system_, loop_.get(), DescribeMachine(setup_.options), on_event));
  run_state_ = setup_.options.start_paused ? RunState::kPaused : RunState::kRunning;
  // From the loop: the user's monitors are there before the guest does anything.
  loop_->Post([this] {
    if (run_state_ == RunState::kRunning && machine_ != nullptr) machine_->Resume();
  });
  return absl::OkStatus();
}

absl::Status App::StartWaiting() {
  run_state_ = RunState::kInmigrate;
  arriving_ = std::make_unique<Arriving>(this, DescribeGiven(setup_.options));
  if (setup_.handoff != nullptr) return migration_->StartExecIncoming(std::move(setup_.handoff), arriving_.get());
  const IncomingOptions& incoming = *setup_.options.incoming;
  if (incoming.cpr.has_value()) return migration_->AwaitTransfer(*incoming.cpr, incoming.main, arriving_.get());
  if (!incoming.main.has_value()) return absl::OkStatus();  // migrate-incoming will tell
  if (incoming.main->transport == Transport::kMemfd) {
    return absl::InvalidArgumentError("-incoming memfd: is for the program that a cpr-exec starts");
  }
  CPR_RETURN_IF_ERROR(CheckSpawn(*incoming.main));
  // RAM that was left in place was so by x-ignore-shared; there is no monitor yet to set it by.
  return migration_->StartIncoming(*incoming.main, {.ignore_shared = true}, arriving_.get());
}

MigrationDriver::Hooks App::DriverHooks() {
  MigrationDriver::Hooks hooks;
  hooks.status_changed = [this](MigrationStatus status) {
    const bool off = status == MigrationStatus::kFailed || status == MigrationStatus::kCancelled;
    if (off && leaving_ != nullptr) leaving_->Abandon();
    if (settings_.events()) Broadcast({.kind = MonitorEvent::Kind::kMigration, .status = status});
  };
  hooks.gone = [this] {
    if (migration_->mode() == Mode::kTransfer) events_->LetGuestArrive();
    SetRunState(RunState::kPostmigrate);
    if (migration_->mode() == Mode::kLuo) {
      Say("the guest is in the Live Update session for as long as this program runs: kexec takes it over, "
          "cont takes it back, quit loses it");
    }
  };
  hooks.arrived = [this] { OnArrived(); };
  hooks.failed = [this](const absl::Status& why) { OnIncomingFailed(why); };
  hooks.log = [this](const std::string& line) { Say(line); };
  hooks.monitor_fds = [this] { return monitors_->fds(); };
  hooks.phase = setup_.phase_observer;
  return hooks;
}

int App::Run() {
  loop_->Run();
  events_->SendAll();
  return exit_code_;
}

void App::OnArrived() {
  events_->LetGuestArrive();
  // Unless the guest has had an event since it runs here, which is some time before this is said.
  if (run_state_ == RunState::kInmigrate) SetRunState(arriving_->run_state());
}

void App::OnIncomingFailed(const absl::Status& why) {
  Say(absl::StrCat("incoming migration failed: ", why.message()));
  // Whoever asked by a monitor hears it there and may try again; what the command line asked for cannot be. A Live
  // Update session that was retrieved is kept for another try: no other program could have it.
  const std::optional<IncomingOptions>& incoming = setup_.options.incoming;
  const bool keeps = migration_->keeps_session();
  if (keeps || (incoming.has_value() && !incoming->main.has_value())) {
    const absl::Status awaited = AwaitAnother(/*words_count=*/!keeps || !arriving_->words_differ());
    if (awaited.ok() || keeps) return;
    Say(absl::StrCat("cpr channel: ", awaited.message()));
  }
  exit_code_ = kFailureExitCode;
  loop_->Stop();
}

absl::Status App::AwaitAnother(bool words_count) {
  if (migration_->keeps_session()) {
    Say(absl::StrCat("the guest is lost if this program ends; migrate_incoming tries again",
                     words_count ? "" : ", and goes by the machine that arrives alone"));
  }
  arriving_ = std::make_unique<Arriving>(this, words_count ? DescribeGiven(setup_.options) : MachineDescription());
  const std::optional<IncomingOptions>& incoming = setup_.options.incoming;
  if (!incoming.has_value() || !incoming->cpr.has_value()) return absl::OkStatus();
  return migration_->AwaitTransfer(*incoming->cpr, std::nullopt, arriving_.get());
}

void App::SetRunState(RunState state) {
  if (run_state_ == state) return;
  const RunState before = std::exchange(run_state_, state);
  // Of a guest that suspends itself or wakes, SUSPEND and WAKEUP tell.
  const bool sleep = state == RunState::kSuspended || before == RunState::kSuspended;
  if (state == RunState::kRunning && !sleep) Broadcast({.kind = MonitorEvent::Kind::kResume});
  if (before == RunState::kRunning && !sleep) Broadcast({.kind = MonitorEvent::Kind::kStop});
  if (!HandingOver()) events_->SendDue();
}

bool App::HandingOver() const {
  return run_state_ == RunState::kFinishMigrate || run_state_ == RunState::kInmigrate || migration_->outgoing_active();
}

void App::Broadcast(MonitorEvent event) { events_->Add(std::move(event), /*later=*/HandingOver()); }

void App::BroadcastShutdown(bool by_guest, const std::string& reason) {
  Broadcast({.kind = MonitorEvent::Kind::kShutdown, .by_guest = by_guest, .reason = reason});
}

void App::OnGuestEvent(GuestEvent event, const std::string& text) {
  if (run_state_ == RunState::kInmigrate) SetRunState(arriving_->run_state());
  switch (event) {
    case GuestEvent::kReset:
      if (!setup_.options.no_reboot) {
        const absl::Status reset = ResetMachine(/*by_guest=*/true, "guest-reset");
        if (reset.ok()) return;
        Say(std::string(reset.message()));
      }
      break;
    case GuestEvent::kShutdown:
      break;
    case GuestEvent::kSuspend:
      SetRunState(RunState::kSuspended);
      return Broadcast({.kind = MonitorEvent::Kind::kSuspend});
    default:
      // Left as it is, for its user to look at.
      Say(text);
      return SetRunState(RunState::kPaused);
  }
  BroadcastShutdown(/*by_guest=*/true, event == GuestEvent::kReset ? "guest-reset" : "guest-shutdown");
  SetRunState(RunState::kShutdown);
  loop_->Stop();
}

absl::Status App::ResetMachine(bool by_guest, const std::string& reason) {
  CPR_RETURN_IF_ERROR(machine_->Reset());
  Broadcast({.kind = MonitorEvent::Kind::kReset, .by_guest = by_guest, .reason = reason});
  SetRunState(run_state_ == RunState::kSuspended ? RunState::kRunning : run_state_);  // it has been woken the hard way
  if (run_state_ == RunState::kRunning) machine_->Resume();
  return absl::OkStatus();
}

void App::Say(const std::string& line) const { std::fprintf(stderr, "cpr-vmm: %s\n", line.c_str()); }

}  // namespace cpr
