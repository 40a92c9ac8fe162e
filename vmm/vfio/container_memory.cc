#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/vfio/vfio_memory.h"

namespace cpr {
namespace {

constexpr char kContainerFd[] = "vfio-container", kGroupFd[] = "vfio-group";

}  // namespace

std::vector<vfio::DmaMapping> VfioDmaMappings(const GuestMemory& memory) {
  std::vector<vfio::DmaMapping> mappings;
  const std::vector<uint8_t*> mapped = memory.mapped();
  for (size_t i = 0; i < mapped.size(); ++i) {
    const RamBlock& block = memory.blocks()[i];
    mappings.push_back({.iova = block.gpa(), .size_bytes = block.size_bytes(), .vaddr = mapped[i]});
  }
  return mappings;
}

absl::StatusOr<std::unique_ptr<VfioMemory>> VfioContainerMemory::Create(const GuestMemory* memory) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, vfio::Type1Container::Open());
  CPR_ASSIGN_OR_RETURN(vfio::Type1Container container, vfio::Type1Container::Create(std::move(fd)));
  return std::unique_ptr<VfioMemory>(new VfioContainerMemory(memory, std::move(container)));
}

absl::StatusOr<std::unique_ptr<VfioMemory>> VfioContainerMemory::Adopt(const GuestMemory* memory, bool same_process,
                                                                       FdTable& fds) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, fds.Take(kContainerFd, 0, FdKind::kVfioContainer));
  std::unique_ptr<VfioContainerMemory> adopted(
      new VfioContainerMemory(memory, vfio::Type1Container::Adopt(std::move(fd), VfioDmaMappings(*memory))));
  const v1::FdManifest manifest = fds.Manifest();
  for (const v1::FdEntry& entry : manifest.entries()) {
    if (entry.name() != kGroupFd) continue;
    CPR_ASSIGN_OR_RETURN(adopted->groups_[entry.instance()], fds.Take(kGroupFd, entry.instance(), FdKind::kVfioGroup));
  }
  // A program before this one in the same process may have taken them and failed then.
  CPR_RETURN_IF_ERROR(same_process ? adopted->container_.ReclaimMappings() : adopted->container_.TakeMappings());
  return adopted;
}

absl::Status VfioContainerMemory::MapAll() {
  const std::vector<vfio::DmaMapping> mappings = VfioDmaMappings(*memory_);
  for (size_t i = 0; i < mappings.size(); ++i) {
    CPR_RETURN_IF_ERROR(
        Annotate(container_.Map(mappings[i]), absl::StrCat("Memory region ", memory_->blocks()[i].name())));
  }
  return absl::OkStatus();
}

// All RAM is mapped as soon as the container has an IOMMU, which its first group brings.
absl::StatusOr<int> VfioContainerMemory::GroupFd(uint32_t group) {
  const auto found = groups_.find(group);
  if (found != groups_.end()) return found->second.get();
  const std::string path = absl::StrCat("/dev/vfio/", group);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd.get() < 0) {
    return ErrnoStatus(
        errno, errno == EBUSY ? absl::StrCat(path, " (it belongs to another VM, perhaps one in postmigrate)") : path);
  }
  const absl::Status added = container_.AddGroup(fd.get(), absl::StrCat(group));
  if (absl::IsFailedPrecondition(added)) {
    return absl::FailedPreconditionError(absl::StrCat(added.message(), ": ", WhoHasVfioGroup(group)));
  }
  CPR_RETURN_IF_ERROR(added);
  if (groups_.empty()) CPR_RETURN_IF_ERROR(MapAll());
  return (groups_[group] = std::move(fd)).get();
}

absl::StatusOr<vfio::Device> VfioContainerMemory::Open(const VfioHostDevice& where) {
  CPR_ASSIGN_OR_RETURN(const int group, GroupFd(where.group));
  return vfio::Device::OpenInGroup(group, where.address);
}

std::vector<int> VfioContainerMemory::FilesForKvm(const std::vector<int>& /*devices*/) const {
  std::vector<int> files;
  for (const auto& [group, fd] : groups_) files.push_back(fd.get());
  return files;
}

absl::Status VfioContainerMemory::AddFds(FdTable& fds) const {
  CPR_RETURN_IF_ERROR(fds.AddDup(kContainerFd, 0, FdKind::kVfioContainer, container_.fd()));
  for (const auto& [group, fd] : groups_) {
    CPR_RETURN_IF_ERROR(fds.AddDup(kGroupFd, group, FdKind::kVfioGroup, fd.get()));
  }
  return absl::OkStatus();
}

}  // namespace cpr
