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
#include "vmm/options/description.h"

namespace cpr {
namespace {

// QEMU's exit code when what it was told cannot be done.
constexpr int kFailureExitCode = 1;
constexpr char kRunStateSection[] = "run-state";

// What the guest was at before the handover, by QEMU's name. Only these can be handed over.
absl::StatusOr<RunState> RunStateOfName(absl::string_view name) {
  for (const RunState state : {RunState::kRunning, RunState::kPaused, RunState::kSuspended}) {
    if (RunStateName(state) == name) return state;
  }
  return absl::DataLossError(absl::StrCat("'", name, "' is no run state that a guest can arrive in"));
}

Section RunStateSection(RunState* state) {
  Section section;
  section.info.name = kRunStateSection;
  section.save = [state](std::string* payload) {
    payload->append(std::string(RunStateName(*state)));
    return absl::OkStatus();
  };
  section.load = [state](absl::string_view payload, uint32_t) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(*state, RunStateOfName(payload));
    return absl::OkStatus();
  };
  return section;
}

}  // namespace

// The machine on its way out; beside it what the user sees meanwhile.
class App::Leaving final : public MachineOutgoing {
 public:
  explicit Leaving(App* app) : MachineOutgoing(app->machine_.get()), app_(app) {}

  std::vector<std::string> Blockers(Mode mode) override {
    if (app_->run_state_ == RunState::kPostmigrate) {
      return {"Can't migrate the vm that was paused due to previous migration"};
    }
    return MachineOutgoing::Blockers(mode);
  }
  absl::Status Describe(Mode mode, Inventory& inventory) override {
    CPR_RETURN_IF_ERROR(MachineOutgoing::Describe(mode, inventory));
    return inventory.sections.Add(RunStateSection(&before_));
  }
  absl::Status Pause() override {
    before_ = app_->run_state_;
    CPR_RETURN_IF_ERROR(MachineOutgoing::Pause());
    app_->SetRunState(RunState::kFinishMigrate);
    if (app_->migration_->mode() == Mode::kExec) app_->monitors_->Suspend();
    return absl::OkStatus();
  }
  void Resume() override {
    MachineOutgoing::Resume();
    if (app_->migration_->mode() == Mode::kExec) app_->monitors_->Resume();
    app_->SetRunState(before_);
  }
  RunState before() const { return before_; }

 private:
  App* const app_;
  RunState before_ = RunState::kUnspecified;  // the handover
};

// The machine on its way in.
class App::Arriving final : public MachineIncoming {
 public:
  explicit Arriving(App* app)
      : MachineIncoming(&*app->system_, app->loop_.get(), DescribeGiven(app->setup_.options),
                        [app](GuestEvent event, const std::string& text) { app->OnGuestEvent(event, text); }),
        app_(app),
        returned_(app->setup_.handoff != nullptr && app->setup_.handoff->returned_because().has_value()) {}

  std::vector<SectionSupport> Supported() override { return SupportedSections(); }
  absl::Status Build(Inventory& arrived) override {
    CPR_RETURN_IF_ERROR(MachineIncoming::Build(arrived));
    return arrived.sections.Add(RunStateSection(&run_state_));
  }
  void Run() override {
    // -S is this program's user's word. Not so for the old program of a cpr-exec that gets its guest back: its command
    // line is that of another day.
    if (app_->setup_.options.start_paused && !returned_ && run_state_ == RunState::kRunning) {
      run_state_ = RunState::kPaused;
    }
    if (run_state_ == RunState::kRunning) machine()->Resume();
    MachineIncoming::Run();
    app_->machine_ = TakeMachine();
  }
  RunState run_state() const { return run_state_; }

 private:
  App* const app_;
  const bool returned_;
  RunState run_state_ = RunState::kUnspecified;
};

std::vector<SectionSupport> App::SupportedSections() {
  std::vector<SectionSupport> support = GuestSectionSupport();
  support.push_back({kRunStateSection, 1});
  return support;
}

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
  CPR_RETURN_IF_ERROR(WatchSignals());
  CPR_ASSIGN_OR_RETURN(system_, kvm::System::Create());
  migration_ = std::make_unique<MigrationDriver>(loop_.get(), &settings_, setup_.argv, DriverHooks());
  const bool waits = setup_.handoff != nullptr || setup_.options.incoming.has_value();
  CPR_RETURN_IF_ERROR(waits ? StartWaiting() : StartMachine());
  CPR_ASSIGN_OR_RETURN(monitors_, MonitorServer::Create(setup_.options.monitors, this, loop_.get()));
  return absl::OkStatus();
}

absl::Status App::WatchSignals() {
  ::signal(SIGPIPE, SIG_IGN);
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
  arriving_ = std::make_unique<Arriving>(this);
  if (setup_.handoff != nullptr) return migration_->StartExecIncoming(std::move(setup_.handoff), arriving_.get());
  const IncomingOptions& incoming = *setup_.options.incoming;
  if (incoming.cpr.has_value()) return migration_->AwaitTransfer(*incoming.cpr, incoming.main, arriving_.get());
  if (!incoming.main.has_value()) return absl::OkStatus();  // migrate-incoming will tell
  if (incoming.main->transport == Transport::kMemfd) {
    return absl::InvalidArgumentError("-incoming memfd: is for the program that a cpr-exec starts");
  }
  // RAM that was left in place was so by x-ignore-shared; there is no monitor yet to set it by.
  return migration_->StartIncoming(*incoming.main, /*ignore_shared=*/true, arriving_.get());
}

MigrationDriver::Hooks App::DriverHooks() {
  MigrationDriver::Hooks hooks;
  hooks.status_changed = [this](MigrationStatus status) {
    const bool off = status == MigrationStatus::kFailed || status == MigrationStatus::kCancelled;
    if (off && leaving_ != nullptr) leaving_->Abandon();
    if (settings_.events()) Broadcast({.kind = MonitorEvent::Kind::kMigration, .status = status});
  };
  hooks.gone = [this] { SetRunState(RunState::kPostmigrate); };
  hooks.arrived = [this] { OnArrived(); };
  hooks.failed = [this](const absl::Status& why) { OnIncomingFailed(why); };
  hooks.log = [this](const std::string& line) { Say(line); };
  hooks.monitor_fds = [this] { return monitors_->fds(); };
  hooks.phase = setup_.phase_observer;
  return hooks;
}

int App::Run() {
  loop_->Run();
  return exit_code_;
}

void App::OnArrived() { SetRunState(arriving_->run_state()); }

void App::OnIncomingFailed(const absl::Status& why) {
  Say(absl::StrCat("incoming migration failed: ", why.message()));
  // Whoever asked by a monitor hears it there and may try again; what the command line asked for cannot be.
  const std::optional<IncomingOptions>& incoming = setup_.options.incoming;
  if (incoming.has_value() && !incoming->main.has_value()) {
    arriving_ = std::make_unique<Arriving>(this);
    if (!incoming->cpr.has_value()) return;
    const absl::Status awaited = migration_->AwaitTransfer(*incoming->cpr, std::nullopt, arriving_.get());
    if (awaited.ok()) return;
    Say(absl::StrCat("cpr channel: ", awaited.message()));
  }
  exit_code_ = kFailureExitCode;
  loop_->Stop();
}

void App::SetRunState(RunState state) {
  if (run_state_ == state) return;
  const RunState before = std::exchange(run_state_, state);
  if (state == RunState::kRunning) Broadcast({.kind = MonitorEvent::Kind::kResume});
  if (before == RunState::kRunning) Broadcast({.kind = MonitorEvent::Kind::kStop});
}

void App::Broadcast(MonitorEvent event) {
  if (monitors_ != nullptr) monitors_->Broadcast(event);
}

void App::BroadcastShutdown(bool by_guest, const std::string& reason) {
  Broadcast({.kind = MonitorEvent::Kind::kShutdown, .by_guest = by_guest, .reason = reason});
}

void App::OnGuestEvent(GuestEvent event, const std::string& text) {
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
  if (run_state_ == RunState::kRunning) machine_->Resume();
  return absl::OkStatus();
}

absl::Status App::RequireMachine() const {
  if (run_state_ == RunState::kInmigrate)
    return absl::FailedPreconditionError("Guest is waiting for an incoming migration");
  if (migration_->outgoing_active()) return absl::FailedPreconditionError("There's a migration process in progress");
  return absl::OkStatus();
}

std::string App::name() const {
  if (machine_ != nullptr) return machine_->description().name.value_or("");
  return setup_.options.name.value_or("");
}

std::string App::uuid() const {
  if (machine_ != nullptr) return machine_->description().uuid.value_or("");
  return setup_.options.uuid.value_or("");
}

std::vector<CpuInfo> App::Cpus() const {
  std::vector<CpuInfo> cpus;
  if (machine_ == nullptr) return cpus;
  for (const pid_t thread_id : machine_->vcpus().thread_ids()) {
    cpus.push_back({static_cast<unsigned>(cpus.size()), thread_id});
  }
  return cpus;
}

std::vector<ChardevInfo> App::Chardevs() const {
  std::vector<ChardevInfo> chardevs = monitors_->Chardevs();
  if (machine_ != nullptr && machine_->serial() != nullptr) {
    chardevs.push_back({"serial0", machine_->serial()->Describe(), machine_->serial()->connected()});
  }
  return chardevs;
}

absl::Status App::Stop() {
  CPR_RETURN_IF_ERROR(RequireMachine());
  if (run_state_ != RunState::kRunning) return absl::OkStatus();
  machine_->Pause();
  SetRunState(RunState::kPaused);
  return absl::OkStatus();
}

absl::Status App::Cont() {
  CPR_RETURN_IF_ERROR(RequireMachine());
  switch (run_state_) {
    case RunState::kRunning:
      return absl::OkStatus();
    case RunState::kSuspended:
      return absl::OkStatus();  // until system_wakeup, as with QEMU
    case RunState::kShutdown:
      return absl::FailedPreconditionError("Resetting the Virtual Machine is required");
    case RunState::kPostmigrate:
      // Only what lies in a state file can be had back; after a transfer the guest runs elsewhere.
      CPR_RETURN_IF_ERROR(migration_->Reclaim());
      leaving_->Abandon();
      break;
    default:
      break;
  }
  machine_->Resume();
  SetRunState(RunState::kRunning);
  return absl::OkStatus();
}

absl::Status App::SystemReset() {
  CPR_RETURN_IF_ERROR(RequireMachine());
  if (run_state_ == RunState::kPostmigrate) {
    return absl::FailedPreconditionError("the guest has been handed over: there is nothing to reset");
  }
  return ResetMachine(/*by_guest=*/false, "host-qmp-system-reset");
}

absl::Status App::SystemPowerdown() {
  CPR_RETURN_IF_ERROR(RequireMachine());
  return absl::UnimplementedError(
      "system_powerdown: the machine has no ACPI, so the guest cannot be told; end it from within, or use quit");
}

absl::Status App::SystemWakeup() {
  CPR_RETURN_IF_ERROR(RequireMachine());
  if (run_state_ != RunState::kSuspended) {
    return absl::FailedPreconditionError("Unable to wake up: guest is not in suspended state");
  }
  machine_->Resume();
  SetRunState(RunState::kRunning);
  Broadcast({.kind = MonitorEvent::Kind::kWakeup});
  return absl::OkStatus();
}

void App::Quit() {
  BroadcastShutdown(/*by_guest=*/false, "host-qmp-quit");
  loop_->Stop();
}

MigrationInfo App::migration_info() const { return migration_->info(); }

absl::Status App::Migrate(const Channels& channels) {
  CPR_RETURN_IF_ERROR(RequireMachine());
  leaving_ = std::make_unique<Leaving>(this);
  return migration_->StartOutgoing(channels, leaving_.get());
}

absl::Status App::MigrateIncoming(const Channels& channels) {
  if (run_state_ != RunState::kInmigrate) {
    return absl::FailedPreconditionError("'-incoming' was not specified on the command line");
  }
  return migration_->StartIncoming(channels.main, settings_.ignore_shared(), arriving_.get());
}

std::vector<CprReadiness> App::Readiness() {
  std::vector<CprReadiness> all;
  for (const Mode mode : {Mode::kReboot, Mode::kTransfer, Mode::kExec}) {
    CprReadiness readiness{mode, {}};
    if (machine_ == nullptr) {
      readiness.blockers = {"Guest is waiting for an incoming migration"};
    } else {
      readiness.blockers = Leaving(this).Blockers(mode);
    }
    all.push_back(std::move(readiness));
  }
  return all;
}

void App::Say(const std::string& line) const { std::fprintf(stderr, "cpr-vmm: %s\n", line.c_str()); }

}  // namespace cpr
