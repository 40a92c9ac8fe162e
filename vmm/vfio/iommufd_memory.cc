#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/ram_block.h"
#include "vmm/vfio/vfio_memory.h"

namespace cpr {
namespace {

constexpr char kIommufdFd[] = "iommufd";

absl::Status MapBlock(const RamBlock& block, uint8_t* mapped, vfio::Iommufd& iommufd) {
  if (!block.SurvivesProcess()) {
    return absl::FailedPreconditionError("it is no shared file or memfd, which an iommufd needs");
  }
  if (block.backing() == RamBacking::kDax) return iommufd.MapVaddr(block.gpa(), block.size_bytes(), mapped);
  return iommufd.Map(
      {.iova = block.gpa(), .size_bytes = block.size_bytes(), .fd = block.fd(), .offset_bytes = block.offset_bytes()});
}

// Linux charges the new process while the old one still is (iommufd_ioas_change_process).
std::string NameOf(const GuestMemory& memory) {
  uint64_t bytes = 0;
  for (const RamBlock& block : memory.blocks()) bytes += block.size_bytes();
  return absl::StrCat("guest RAM of ", bytes, " bytes, which counts twice for a user while it changes hands");
}

}  // namespace

absl::StatusOr<std::unique_ptr<VfioIommufdMemory>> VfioIommufdMemory::Create(const GuestMemory* memory,
                                                                             uint32_t instance) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, vfio::Iommufd::Open());
  CPR_ASSIGN_OR_RETURN(vfio::Iommufd iommufd, vfio::Iommufd::Create(std::move(fd)));
  const std::vector<uint8_t*> mapped = memory->mapped();
  for (size_t i = 0; i < mapped.size(); ++i) {
    const RamBlock& block = memory->blocks()[i];
    CPR_RETURN_IF_ERROR(Annotate(MapBlock(block, mapped[i], iommufd), absl::StrCat("Memory region ", block.name())));
  }
  return std::unique_ptr<VfioIommufdMemory>(new VfioIommufdMemory(instance, std::move(iommufd)));
}

absl::StatusOr<std::unique_ptr<VfioIommufdMemory>> VfioIommufdMemory::Adopt(const GuestMemory* memory,
                                                                            bool same_process, uint32_t instance,
                                                                            uint32_t ioas_id, FdTable& fds) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, fds.Take(kIommufdFd, instance, FdKind::kIommufd));
  std::unique_ptr<VfioIommufdMemory> adopted(
      new VfioIommufdMemory(instance, vfio::Iommufd::Adopt(std::move(fd), ioas_id)));
  const absl::Status taken = adopted->iommufd_.TakeOver();
  if (!same_process || StatusErrno(taken) != ENOMEM) CPR_RETURN_IF_ERROR(Annotate(taken, NameOf(*memory)));
  return adopted;
}

absl::StatusOr<vfio::Device> VfioIommufdMemory::Open(const VfioHostDevice& where) {
  if (where.node.empty()) {
    return absl::UnimplementedError(
        "the host's kernel has no /dev/vfio/devices, which an iommufd needs (VFIO_DEVICE_CDEV)");
  }
  CPR_ASSIGN_OR_RETURN(vfio::Device device, vfio::Device::OpenNode(where.node));
  const absl::Status attached = iommufd_.Attach(device.fd()).status();
  if (attached.ok()) return device;
  // The kernel's answers: the host uses the group; somebody has the device open, by its node or by its group.
  const int error = StatusErrno(attached);
  if (error == EPERM) {
    return absl::FailedPreconditionError(absl::StrCat(attached.message(), " (group ", where.group,
                                                      " is not viable: all its devices have to be bound to their vfio "
                                                      "bus driver: ",
                                                      WhoHasVfioGroup(where.group), ")"));
  }
  if (error != EINVAL && error != EBUSY) return attached;
  return absl::Status(attached.code(),
                      absl::StrCat(attached.message(), " (does it belong to another VM, perhaps one in postmigrate?)"));
}

absl::Status VfioIommufdMemory::AddFds(FdTable& fds) const {
  return fds.AddDup(kIommufdFd, instance_, FdKind::kIommufd, iommufd_.fd());
}

}  // namespace cpr
