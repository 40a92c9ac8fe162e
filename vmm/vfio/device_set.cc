#include "vmm/vfio/device_set.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/vfio/host_device.h"
#include "vmm/vfio/identity.h"
#include "vmm/vfio/notices.h"

namespace cpr {
namespace {

constexpr char kDeviceFd[] = "vfio-device";
// Behind RAM's.
constexpr uint32_t kFirstMemslot = 64;

// By the device's index. The second are VfioNotices'.
constexpr const char* kNoticeFds[VfioNotices::kKinds] = {"vfio-err", "vfio-req"};
std::string InterruptFdName(unsigned number) { return absl::StrCat("vfio-interrupt", number); }

std::string NameOf(const VfioDeviceConfig& config) { return absl::StrCat("vfio ", config.host); }

std::vector<VfioState::Mapping> MappingsOf(const GuestMemory& memory) {
  std::vector<VfioState::Mapping> mappings;
  for (const RamBlock& block : memory.blocks()) mappings.push_back({block.gpa(), block.size_bytes()});
  return mappings;
}

absl::StatusOr<VfioPci::Arrived> TakeEventfds(FdTable& fds, uint32_t instance, unsigned interrupts) {
  VfioPci::Arrived arrived;
  for (unsigned i = 0; i < interrupts; ++i) {
    CPR_ASSIGN_OR_RETURN(arrived.interrupts.emplace_back(), fds.Take(InterruptFdName(i), instance, FdKind::kEventfd));
  }
  for (size_t kind = 0; kind < VfioNotices::kKinds; ++kind) {
    if (!fds.Has(kNoticeFds[kind], instance)) continue;
    CPR_ASSIGN_OR_RETURN(arrived.notices[kind], fds.Take(kNoticeFds[kind], instance, FdKind::kEventfd));
  }
  return arrived;
}

absl::Status AddEventfds(VfioPci& function, uint32_t instance, FdTable& fds) {
  CPR_ASSIGN_OR_RETURN(const std::vector<int> interrupts, function.Eventfds());
  for (unsigned number = 0; number < interrupts.size(); ++number) {
    CPR_RETURN_IF_ERROR(fds.AddDup(InterruptFdName(number), instance, FdKind::kEventfd, interrupts[number]));
  }
  for (size_t kind = 0; kind < VfioNotices::kKinds; ++kind) {
    const int eventfd = function.notices().fds()[kind];
    if (eventfd >= 0) CPR_RETURN_IF_ERROR(fds.AddDup(kNoticeFds[kind], instance, FdKind::kEventfd, eventfd));
  }
  return absl::OkStatus();
}

// `say` (may be empty) with the device's name before the text.
std::function<void(const std::string&)> Named(const VfioDeviceConfig& config,
                                              std::function<void(const std::string&)> say) {
  return [say = std::move(say), name = NameOf(config)](const std::string& text) {
    if (say) say(absl::StrCat(name, ": ", text));
  };
}

VfioPci::Wiring WiringOf(const VfioDeviceSet::Surroundings& surroundings, const VfioDeviceConfig& config,
                         size_t index) {
  return {.name = NameOf(config),
          .router = surroundings.router,
          .intx_router = surroundings.intx_router,
          .set_memslot =
              [vm = surroundings.vm](uint32_t slot, uint64_t gpa, absl::Span<uint8_t> memory) {
                return vm->SetUserMemoryRegion({.slot = slot,
                                                .flags = 0,
                                                .guest_phys_addr = gpa,
                                                .memory_size = memory.size(),
                                                .userspace_addr = reinterpret_cast<uintptr_t>(memory.data())});
              },
          .first_memslot = kFirstMemslot + static_cast<uint32_t>(index) * VfioPci::kMaxMemslots,
          .loop = surroundings.loop,
          .failed = Named(config, surroundings.failed),
          .warn = Named(config, surroundings.warn)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<VfioDeviceSet>> VfioDeviceSet::Create(const Surroundings& surroundings,
                                                                     absl::Span<const VfioDeviceConfig> configs,
                                                                     const Arrived* arrived) {
  std::unique_ptr<VfioDeviceSet> set(new VfioDeviceSet());
  CPR_RETURN_IF_ERROR(set->CheckArrived(surroundings, configs.size(), arrived));
  set->state_.mappings = MappingsOf(*surroundings.memory);
  for (const VfioDeviceConfig& config : configs) {
    CPR_RETURN_IF_ERROR(Annotate(set->Add(surroundings, config, arrived), NameOf(config)));
  }
  CPR_RETURN_IF_ERROR(set->TellKvm(surroundings));
  return set;
}

absl::Status VfioDeviceSet::CheckArrived(const Surroundings& surroundings, size_t devices,
                                         const Arrived* arrived) const {
  if (arrived == nullptr) return absl::OkStatus();
  if (arrived->state.devices.size() != devices) {
    return absl::FailedPreconditionError(
        absl::StrCat("state of ", arrived->state.devices.size(), " VFIO devices, the machine has ", devices));
  }
  if (arrived->state.mappings == MappingsOf(*surroundings.memory)) return absl::OkStatus();
  return absl::FailedPreconditionError("what the VFIO devices reach is not this machine's RAM");
}

absl::StatusOr<VfioMemory*> VfioDeviceSet::MemoryOf(const Surroundings& surroundings, const std::string& iommufd,
                                                    const Arrived* arrived) {
  const auto found = memories_.find(iommufd);
  if (found != memories_.end()) return found->second.get();
  std::unique_ptr<VfioMemory> memory;
  if (iommufd.empty()) {
    CPR_ASSIGN_OR_RETURN(memory, arrived == nullptr ? VfioContainerMemory::Create(surroundings.memory)
                                                    : VfioContainerMemory::Adopt(surroundings.memory,
                                                                                 arrived->same_process, *arrived->fds));
  } else {
    const auto instance = static_cast<uint32_t>(state_.iommufds.size());
    if (arrived != nullptr && instance >= arrived->state.iommufds.size()) {
      return absl::FailedPreconditionError(absl::StrCat("no iommufd has come for '", iommufd, "'"));
    }
    CPR_ASSIGN_OR_RETURN(std::unique_ptr<VfioIommufdMemory> by_iommufd,
                         arrived == nullptr
                             ? VfioIommufdMemory::Create(surroundings.memory, instance)
                             : VfioIommufdMemory::Adopt(surroundings.memory, arrived->same_process, instance,
                                                        arrived->state.iommufds[instance].ioas_id, *arrived->fds));
    state_.iommufds.push_back({iommufd, by_iommufd->ioas_id()});
    memory = std::move(by_iommufd);
  }
  return (memories_[iommufd] = std::move(memory)).get();
}

absl::StatusOr<vfio::Device> VfioDeviceSet::OpenDevice(const Surroundings& surroundings, const VfioDeviceConfig& config,
                                                       const Arrived* arrived) {
  if (arrived != nullptr) {
    const auto instance = static_cast<uint32_t>(devices_.size());
    CPR_RETURN_IF_ERROR(MemoryOf(surroundings, config.iommufd, arrived).status());
    state_.devices.push_back(arrived->state.devices[instance]);
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, arrived->fds->Take(kDeviceFd, instance, FdKind::kVfioDevice));
    return vfio::Device::Adopt(std::move(fd));
  }
  CPR_ASSIGN_OR_RETURN(const VfioHostDevice where, FindVfioHostDevice(config.host));
  CPR_ASSIGN_OR_RETURN(VfioMemory * memory, MemoryOf(surroundings, config.iommufd, arrived));
  state_.devices.push_back({.group = where.group});
  return memory->Open(where);
}

absl::Status VfioDeviceSet::Add(const Surroundings& surroundings, const VfioDeviceConfig& config,
                                const Arrived* arrived) {
  const size_t index = devices_.size();
  const bool came = arrived != nullptr && arrived->state.devices_come;
  CPR_ASSIGN_OR_RETURN(vfio::Device device, OpenDevice(surroundings, config, came ? arrived : nullptr));
  VfioPci::Arrived eventfds;
  if (came) {
    CPR_ASSIGN_OR_RETURN(eventfds,
                         TakeEventfds(*arrived->fds, static_cast<uint32_t>(index), state_.devices[index].interrupts));
  }
  CPR_ASSIGN_OR_RETURN(
      std::unique_ptr<VfioPci> function,
      VfioPci::Create(std::move(device), WiringOf(surroundings, config, index), came ? &eventfds : nullptr));
  const VfioIdentity identity = function->identity();
  if (arrived != nullptr) CPR_RETURN_IF_ERROR(CheckVfioIdentity(identity, arrived->state.devices[index].identity));
  CPR_ASSIGN_OR_RETURN(const std::vector<int> interrupts, function->Eventfds());
  state_.devices[index].interrupts = static_cast<uint32_t>(interrupts.size());
  state_.devices[index].identity = identity;
  // The bus keeps what is on it: from here on the device lives as long as the set.
  devices_.push_back(std::make_unique<Device>(Device{config, std::move(function)}));
  CPR_ASSIGN_OR_RETURN(const unsigned slot, surroundings.host->Add(config.slot, devices_.back()->function.get()));
  devices_.back()->function->Plug(slot);
  return absl::OkStatus();
}

absl::Status VfioDeviceSet::TellKvm(const Surroundings& surroundings) {
  CPR_ASSIGN_OR_RETURN(kvm_files_, kvm::VfioFiles::Create(*surroundings.vm));
  for (const auto& [id, memory] : memories_) {
    std::vector<int> devices;
    for (const auto& device : devices_) {
      if (device->config.iommufd == id) devices.push_back(device->function->device().fd());
    }
    for (const int file : memory->FilesForKvm(devices)) CPR_RETURN_IF_ERROR(kvm_files_->Add(file));
  }
  return absl::OkStatus();
}

std::vector<std::string> VfioDeviceSet::HandoverBlockers() const {
  std::vector<std::string> blockers;
  for (const auto& [id, memory] : memories_) {
    const absl::Status status = memory->CheckHandover();
    if (!status.ok()) blockers.push_back(std::string(status.message()));
  }
  return blockers;
}

absl::Status VfioDeviceSet::Release() {
  released_ = true;
  for (const auto& [id, memory] : memories_) {
    const absl::Status status = memory->Release();
    if (status.ok()) continue;
    Reclaim().IgnoreError();  // the first error is told
    return status;
  }
  return absl::OkStatus();
}

absl::Status VfioDeviceSet::Reclaim() {
  absl::Status first;
  if (!std::exchange(released_, false)) return first;
  for (const auto& [id, memory] : memories_) first.Update(memory->Reclaim());
  return first;
}

absl::Status VfioDeviceSet::AddFds(FdTable& fds) const {
  for (const auto& [id, memory] : memories_) CPR_RETURN_IF_ERROR(memory->AddFds(fds));
  for (uint32_t i = 0; i < devices_.size(); ++i) {
    VfioPci& function = *devices_[i]->function;
    CPR_RETURN_IF_ERROR(fds.AddDup(kDeviceFd, i, FdKind::kVfioDevice, function.device().fd()));
    CPR_RETURN_IF_ERROR(AddEventfds(function, i, fds));
  }
  return absl::OkStatus();
}

}  // namespace cpr
