// What the monitors' commands do, and what they ask for.
#include <utility>

#include "libcpr/base/status_macros.h"
#include "vmm/app/app.h"
#include "vmm/app/app_handover.h"

namespace cpr {

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
  if (machine_ == nullptr || machine_->devices() == nullptr) return chardevs;
  for (const auto& [id, chardev] : machine_->devices()->chardevs()) {
    chardevs.push_back({id, chardev->Describe(), chardev->connected()});
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

absl::Status App::ReclaimGuest() {
  CPR_RETURN_IF_ERROR(leaving_->TakeImagesBack());
  const absl::Status reclaimed = migration_->Reclaim();
  if (!reclaimed.ok()) leaving_->Release();
  return reclaimed;
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
      CPR_RETURN_IF_ERROR(ReclaimGuest());
      leaving_->Abandon();
      if (leaving_->run_state_before() == RunState::kSuspended) {
        SetRunState(RunState::kSuspended);
        return absl::OkStatus();
      }
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
  if (run_state_ == RunState::kPostmigrate) {
    return absl::FailedPreconditionError("the guest has been handed over: there is nothing to power down");
  }
  machine_->platform().acpi_pm().PressPowerButton();
  return absl::OkStatus();
}

absl::Status App::SystemWakeup() {
  CPR_RETURN_IF_ERROR(RequireMachine());
  if (run_state_ != RunState::kSuspended) {
    return absl::FailedPreconditionError("Unable to wake up: guest is not in suspended state");
  }
  CPR_RETURN_IF_ERROR(machine_->Wakeup());
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
  CPR_RETURN_IF_ERROR(CheckSpawn(channels.main));
  leaving_ = std::make_unique<Leaving>(this);
  return migration_->StartOutgoing(channels, leaving_.get());
}

absl::Status App::MigrateIncoming(const Channels& channels) {
  if (run_state_ != RunState::kInmigrate) {
    return absl::FailedPreconditionError("'-incoming' was not specified on the command line");
  }
  CPR_RETURN_IF_ERROR(CheckSpawn(channels.main));
  const MigrationDriver::RebootRam ram = {settings_.ignore_shared(), settings_.mapped_restore()};
  return migration_->StartIncoming(channels.main, ram, arriving_.get());
}

std::vector<CprReadiness> App::Readiness() {
  std::vector<CprReadiness> all;
  for (const Mode mode : {Mode::kReboot, Mode::kTransfer, Mode::kExec, Mode::kLuo}) {
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

}  // namespace cpr
