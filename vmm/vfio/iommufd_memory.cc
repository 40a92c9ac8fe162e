#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/vfio/vfio_memory.h"

namespace cpr {
namespace {

constexpr char kIommufdFd[] = "iommufd";

}  // namespace

absl::StatusOr<std::unique_ptr<VfioIommufdMemory>> VfioIommufdMemory::Create(const GuestMemory* memory,
                                                                             uint32_t instance) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, vfio::Iommufd::Open());
  CPR_ASSIGN_OR_RETURN(vfio::Iommufd iommufd, vfio::Iommufd::Create(std::move(fd)));
  for (const RamBlock& block : memory->blocks()) {
    const vfio::FileDmaMapping mapping = {
        .iova = block.gpa(), .size_bytes = block.size_bytes(), .fd = block.fd(), .offset_bytes = block.offset_bytes()};
    if (!block.SurvivesProcess()) {
      return absl::FailedPreconditionError(
          absl::StrCat("Memory region ", block.name(), " is no shared file or memfd, which an iommufd needs"));
    }
    CPR_RETURN_IF_ERROR(Annotate(iommufd.Map(mapping), absl::StrCat("Memory region ", block.name())));
  }
  return std::unique_ptr<VfioIommufdMemory>(new VfioIommufdMemory(instance, std::move(iommufd)));
}

absl::StatusOr<std::unique_ptr<VfioIommufdMemory>> VfioIommufdMemory::Adopt(uint32_t instance, uint32_t ioas_id,
                                                                            FdTable& fds) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, fds.Take(kIommufdFd, instance, FdKind::kIommufd));
  std::unique_ptr<VfioIommufdMemory> adopted(
      new VfioIommufdMemory(instance, vfio::Iommufd::Adopt(std::move(fd), ioas_id)));
  CPR_RETURN_IF_ERROR(adopted->iommufd_.TakeOver());
  return adopted;
}

absl::StatusOr<vfio::Device> VfioIommufdMemory::Open(const VfioHostDevice& where) {
  if (where.node.empty()) {
    return absl::UnimplementedError(
        "the host's kernel has no /dev/vfio/devices, which an iommufd needs (VFIO_DEVICE_CDEV)");
  }
  CPR_ASSIGN_OR_RETURN(vfio::Device device, vfio::Device::OpenNode(where.node));
  CPR_RETURN_IF_ERROR(iommufd_.Attach(device.fd()).status());
  return device;
}

absl::Status VfioIommufdMemory::AddFds(FdTable& fds) const {
  return fds.AddDup(kIommufdFd, instance_, FdKind::kIommufd, iommufd_.fd());
}

}  // namespace cpr
