#include "vmm/machine/outgoing_vm.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/modes/luo.h"

namespace cpr {

std::vector<std::string> MachineOutgoing::Blockers(Mode mode) {
  std::vector<std::string> blockers;
  // A device that is opened anew has its pages before the state's RAM comes, which private RAM gets others for.
  const bool any_ram = mode == Mode::kReboot && machine_->vfio_devices() == nullptr;
  for (const RamBlock& block : machine_->memory().blocks()) {
    if (!any_ram && !block.SurvivesProcess()) {
      blockers.push_back(absl::StrCat("Memory region ", block.name(),
                                      " is not compatible with CPR. share=on is required for memory-backend objects, "
                                      "and aux-ram-share=on is required."));
    } else if (const absl::Status kept = CheckLuoRam(block); mode == Mode::kLuo && !kept.ok()) {
      blockers.push_back(std::string(kept.message()));
    }
  }
  if (mode == Mode::kLuo && machine_->vfio_devices() != nullptr) {
    blockers.push_back("VFIO devices cannot be used with cpr-luo: no kernel hands them to the next one");
  }
  if (!OutlivesKernel(mode) && machine_->vfio_devices() != nullptr) {
    for (std::string& blocker : machine_->vfio_devices()->HandoverBlockers()) blockers.push_back(std::move(blocker));
  }
  return blockers;
}

absl::Status MachineOutgoing::Describe(Mode mode, Inventory& inventory) {
  mode_ = mode;
  VfioDeviceSet* const vfio = machine_->vfio_devices();
  early_ = {.description = machine_->description(),
            .kvm = machine_->kvm_plan(),
            .vfio = vfio == nullptr ? std::nullopt : std::make_optional(vfio->state())};
  if (vfio != nullptr) early_.vfio->devices_come = !OutlivesKernel(mode);
  CPR_ASSIGN_OR_RETURN(kvm::VcpuSavePlan plan, PlanSave(machine_->system(), machine_->kvm_plan()));
  CPR_ASSIGN_OR_RETURN(inventory.blocks, machine_->memory().DupBlocks());
  inventory.mapped = machine_->memory().mapped();
  CPR_RETURN_IF_ERROR(AddEarlySections(&early_, /*incoming=*/false, inventory.sections));
  CPR_RETURN_IF_ERROR(AddLateSections(machine_, std::move(plan), inventory.sections));
  if (OutlivesKernel(mode)) return FlushImages();  // most of it while the guest runs
  if (vfio != nullptr) {
    CPR_RETURN_IF_ERROR(vfio->AddFds(inventory.fds));
    CPR_RETURN_IF_ERROR(vfio->Release());
  }
  if (machine_->devices() != nullptr) {
    machine_->devices()->HoldConnections();
    CPR_RETURN_IF_ERROR(machine_->devices()->AddFds(inventory.fds));
  }
  if (machine_->serial() == nullptr) return absl::OkStatus();
  machine_->serial()->HoldConnections();
  for (const ChardevFd& fd : machine_->serial()->Fds()) {
    CPR_RETURN_IF_ERROR(inventory.fds.AddDup(absl::StrCat("serial.", fd.name), 0, fd.kind, fd.fd));
  }
  return absl::OkStatus();
}

absl::Status MachineOutgoing::Pause() {
  ran_ = machine_->running();
  machine_->Pause();
  if (machine_->event_pending()) {
    Resume();
    return absl::FailedPreconditionError("the guest has just reset or stopped itself");
  }
  if (machine_->serial() != nullptr) machine_->serial()->Quiesce();
  if (machine_->devices() != nullptr) machine_->devices()->QuiesceChardevs();
  absl::Status flushed = FlushImages();
  if (!flushed.ok()) Resume();
  return flushed;
}

absl::Status MachineOutgoing::FlushImages() const {
  if (!OutlivesKernel(mode_) || machine_->devices() == nullptr) return absl::OkStatus();
  return machine_->devices()->FlushImages();
}

void MachineOutgoing::Abandon() {
  // The guest goes on, whatever a refusal of the kernel's means for the next handover: that one's check tells.
  if (machine_->vfio_devices() != nullptr) machine_->vfio_devices()->Reclaim().IgnoreError();
  if (machine_->serial() != nullptr) machine_->serial()->Resume();
  if (machine_->devices() != nullptr) machine_->devices()->ResumeChardevs();
}

void MachineOutgoing::Resume() {
  Abandon();
  if (ran_) machine_->Resume();
}

void MachineOutgoing::Release() {
  if (machine_->serial() != nullptr && !OutlivesKernel(mode_)) machine_->serial()->ReleaseToPeer();
  if (machine_->devices() != nullptr) machine_->devices()->ReleaseToPeer(/*fds_went=*/!OutlivesKernel(mode_));
}

absl::Status MachineOutgoing::TakeImagesBack() {
  return machine_->devices() == nullptr ? absl::OkStatus() : machine_->devices()->TakeImagesBack();
}

}  // namespace cpr
