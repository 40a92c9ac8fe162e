#include "vmm/machine/incoming_vm.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

// The fds of the serial port's chardev, by the names that it knows them by.
absl::StatusOr<std::map<std::string, UniqueFd>> TakeSerialFds(FdTable& fds) {
  std::map<std::string, UniqueFd> taken;
  const v1::FdManifest manifest = fds.Manifest();
  for (const v1::FdEntry& entry : manifest.entries()) {
    absl::string_view name = entry.name();
    if (!absl::ConsumePrefix(&name, "serial.")) continue;
    CPR_ASSIGN_OR_RETURN(taken[std::string(name)],
                         fds.Take(entry.name(), entry.instance(), static_cast<FdKind>(entry.kind())));
  }
  return taken;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Chardev>> MachineIncoming::BuildSerial(const MachineDescription& description,
                                                                      FdTable& fds) {
  if (!description.serial.has_value() || description.serial->none) return std::unique_ptr<Chardev>();
  ChardevConfig config = description.serial->config;
  CPR_ASSIGN_OR_RETURN(auto taken, TakeSerialFds(fds));
  const bool same = early_.description.serial.has_value() && early_.description.serial->config == config;
  if (same && !taken.empty()) return Chardev::Adopt(config, std::move(taken), loop_);
  config.append = true;
  CPR_ASSIGN_OR_RETURN(std::unique_ptr<Chardev> serial, Chardev::Create(config, loop_));
  serial->Quiesce();
  return serial;
}

absl::Status MachineIncoming::DropOtherPortsFds(const MachineDescription& description, FdTable& fds) const {
  for (uint32_t instance = 0; instance < description.devices->size(); ++instance) {
    const std::vector<VirtioPortConfig>& ports = (*description.devices)[instance].ports;
    for (size_t port = 0; port < ports.size(); ++port) {
      if (ports[port].chardev == (*early_.description.devices)[instance].ports[port].chardev) continue;
      CPR_RETURN_IF_ERROR(VirtioDeviceSet::DropPortFds(instance, port, fds));
    }
  }
  return absl::OkStatus();
}

absl::Status MachineIncoming::Build(Inventory& arrived) {
  absl::StatusOr<MachineDescription> joined = JoinDescriptions(given_, early_.description);
  words_differ_ = !joined.ok();
  CPR_ASSIGN_OR_RETURN(MachineDescription description, std::move(joined));
  if (early_.kvm.vcpus.size() != description.vcpus) {
    return absl::DataLossError(
        absl::StrCat("the state describes ", early_.kvm.vcpus.size(), " vCPUs, its machine has ", *description.vcpus));
  }
  CPR_ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::Create(std::move(arrived.blocks)));
  CPR_ASSIGN_OR_RETURN(std::unique_ptr<Chardev> serial, BuildSerial(description, arrived.fds));
  CPR_RETURN_IF_ERROR(DropOtherPortsFds(description, arrived.fds));
  std::optional<VfioDeviceSet::Arrived> vfio;
  if (early_.vfio.has_value() == description.vfio_devices->empty()) {
    return absl::DataLossError(absl::StrCat(description.vfio_devices->size(), " VFIO devices, and ",
                                            early_.vfio.has_value() ? "a" : "no", " section 'vfio'"));
  }
  if (early_.vfio.has_value()) {
    vfio = {.state = *early_.vfio, .fds = &arrived.fds, .same_process = same_process_};
  }
  CPR_ASSIGN_OR_RETURN(machine_, Machine::Create(system_, loop_,
                                                 {.description = std::move(description),
                                                  .kvm = early_.kvm,
                                                  .memory = std::move(memory),
                                                  .serial = std::move(serial),
                                                  .fds = &arrived.fds,
                                                  .vfio = std::move(vfio)},
                                                 on_event_));
  return AddLateSections(machine_.get(), /*plan=*/{}, arrived.sections);
}

void MachineIncoming::Run() {
  if (machine_->serial() != nullptr) machine_->serial()->Resume();
  if (machine_->devices() != nullptr) machine_->devices()->ResumeChardevs();
}

}  // namespace cpr
