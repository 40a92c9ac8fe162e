#include "vmm/app/app_handover.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/preserve/live_update.h"

namespace cpr {
namespace {

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

std::vector<std::string> App::Leaving::Blockers(Mode mode) {
  if (app_->run_state_ == RunState::kPostmigrate) {
    return {"Can't migrate the vm that was paused due to previous migration"};
  }
  std::vector<std::string> blockers = MachineOutgoing::Blockers(mode);
  const bool has_vfio = app_->machine_->vfio_devices() != nullptr;
  if (mode == Mode::kReboot && has_vfio && app_->run_state_ != RunState::kSuspended) {
    blockers.push_back("VFIO device only supports cpr-reboot for runstate suspended");
  }
  if (mode == Mode::kLuo) {
    const absl::Status there = LiveUpdate::Open().status();
    if (!there.ok()) blockers.push_back(std::string(there.message()));
  }
  const SandboxOption& sandbox = app_->setup_.options.sandbox;
  if (mode == Mode::kExec && sandbox.on && !sandbox.spawn) {
    blockers.push_back("-sandbox spawn=deny lets no other program be executed");
  }
  return blockers;
}

absl::Status App::Leaving::Describe(Mode mode, Inventory& inventory) {
  CPR_RETURN_IF_ERROR(MachineOutgoing::Describe(mode, inventory));
  return inventory.sections.Add(RunStateSection(&before_));
}

absl::Status App::Leaving::Pause() {
  before_ = app_->run_state_;
  CPR_RETURN_IF_ERROR(MachineOutgoing::Pause());
  app_->SetRunState(RunState::kFinishMigrate);
  if (app_->migration_->mode() != Mode::kExec) return absl::OkStatus();
  app_->events_->SendAll();  // there is no later for this program
  app_->monitors_->Suspend();
  return absl::OkStatus();
}

void App::Leaving::Resume() {
  MachineOutgoing::Resume();
  if (app_->migration_->mode() == Mode::kExec) app_->monitors_->Resume();
  app_->SetRunState(before_);
}

App::Arriving::Arriving(App* app, MachineDescription given)
    : MachineIncoming(&*app->system_, app->loop_.get(), std::move(given), app->setup_.handoff != nullptr,
                      [app](GuestEvent event, const std::string& text) { app->OnGuestEvent(event, text); }),
      app_(app),
      returned_(app->setup_.handoff != nullptr && app->setup_.handoff->returned_because().has_value()) {}

absl::Status App::Arriving::Build(Inventory& arrived) {
  CPR_RETURN_IF_ERROR(MachineIncoming::Build(arrived));
  return arrived.sections.Add(RunStateSection(&run_state_));
}

void App::Arriving::Run() {
  // -S is this program's user's word. Not so for the old program of a cpr-exec that gets its guest back: its command
  // line is that of another day.
  if (app_->setup_.options.start_paused && !returned_ && run_state_ == RunState::kRunning) {
    run_state_ = RunState::kPaused;
  }
  if (run_state_ == RunState::kRunning) machine()->Resume();
  MachineIncoming::Run();
  app_->machine_ = TakeMachine();
}

std::vector<SectionSupport> App::SupportedSections() {
  std::vector<SectionSupport> support = GuestSectionSupport();
  support.push_back({kRunStateSection, 1});
  return support;
}

}  // namespace cpr
