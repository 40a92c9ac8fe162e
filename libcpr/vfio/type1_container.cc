#include "libcpr/vfio/type1_container.h"

#include <fcntl.h>
#include <linux/vfio.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vfio/locked_memory.h"

// The request with its name.
#define CPR_VFIO_REQUEST(request) (request), #request

namespace cpr::vfio {
namespace {

constexpr char kPath[] = "/dev/vfio/vfio";

std::string NameOf(const DmaMapping& mapping) {
  return absl::StrCat("DMA mapping of ", mapping.size_bytes, " bytes at 0x", absl::Hex(mapping.iova));
}

}  // namespace

Type1Container::Type1Container(UniqueFd fd, std::vector<DmaMapping> mappings, IoctlFunction ioctl)
    : fd_(std::move(fd)), ioctl_(KernelsUnless(std::move(ioctl))), mappings_(std::move(mappings)) {}

absl::StatusOr<UniqueFd> Type1Container::Open() {
  UniqueFd fd(::open(kPath, O_RDWR | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, kPath);
  return fd;
}

absl::StatusOr<Type1Container> Type1Container::Create(UniqueFd fd, IoctlFunction ioctl) {
  Type1Container container(std::move(fd), {}, std::move(ioctl));
  CPR_ASSIGN_OR_RETURN(const int version, container.Call(CPR_VFIO_REQUEST(VFIO_GET_API_VERSION), nullptr));
  if (version != VFIO_API_VERSION) {
    return absl::UnimplementedError(absl::StrCat("the host's VFIO has version ", version, ", not ", VFIO_API_VERSION));
  }
  CPR_ASSIGN_OR_RETURN(const int type1, container.Extension(VFIO_TYPE1v2_IOMMU));
  if (type1 == 0) return absl::UnimplementedError("the host's VFIO has no IOMMU of type 1, version 2");
  return container;
}

Type1Container Type1Container::Adopt(UniqueFd fd, std::vector<DmaMapping> mappings, IoctlFunction ioctl) {
  Type1Container container(std::move(fd), std::move(mappings), std::move(ioctl));
  container.has_iommu_ = true;
  return container;
}

absl::StatusOr<int> Type1Container::CallFd(int fd, unsigned long request, absl::string_view name,
                                           void* argument) const {
  const int result = ioctl_(fd, request, argument);
  if (result < 0) return ErrnoStatus(errno, std::string(name));
  return result;
}

absl::StatusOr<int> Type1Container::Call(unsigned long request, absl::string_view name, void* argument) const {
  return CallFd(fd_.get(), request, name, argument);
}

absl::StatusOr<int> Type1Container::Extension(unsigned long extension) const {
  return Call(CPR_VFIO_REQUEST(VFIO_CHECK_EXTENSION), reinterpret_cast<void*>(extension));
}

absl::Status Type1Container::AddGroup(int group_fd, absl::string_view group) {
  vfio_group_status status = {};
  status.argsz = sizeof(status);
  CPR_RETURN_IF_ERROR(
      Annotate(CallFd(group_fd, CPR_VFIO_REQUEST(VFIO_GROUP_GET_STATUS), &status).status(), std::string(group)));
  if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("group ", group, " is not viable: all its devices have to be bound to their vfio bus driver"));
  }
  int container = fd_.get();
  CPR_RETURN_IF_ERROR(
      Annotate(CallFd(group_fd, CPR_VFIO_REQUEST(VFIO_GROUP_SET_CONTAINER), &container).status(), std::string(group)));
  if (has_iommu_) return absl::OkStatus();
  const absl::Status set =
      Call(CPR_VFIO_REQUEST(VFIO_SET_IOMMU), reinterpret_cast<void*>(uintptr_t{VFIO_TYPE1v2_IOMMU})).status();
  has_iommu_ = set.ok();
  // Not to be found in a container that does not work when somebody tries again. The first error is told.
  if (!set.ok()) CallFd(group_fd, CPR_VFIO_REQUEST(VFIO_GROUP_UNSET_CONTAINER), nullptr).IgnoreError();
  return set;
}

uint64_t Type1Container::MappedBytes() const {
  uint64_t bytes = 0;
  for (const DmaMapping& mapping : mappings_) bytes += mapping.size_bytes;
  return bytes;
}

absl::Status Type1Container::MapDma(const DmaMapping& mapping, uint32_t flags, uint64_t locked_bytes) const {
  vfio_iommu_type1_dma_map map = {};
  map.argsz = sizeof(map);
  map.flags = flags;
  map.vaddr = reinterpret_cast<uintptr_t>(mapping.vaddr);
  map.iova = mapping.iova;
  map.size = mapping.size_bytes;
  const absl::Status status = Call(CPR_VFIO_REQUEST(VFIO_IOMMU_MAP_DMA), &map).status();
  return Annotate(ExplainLockedMemory(status, locked_bytes), NameOf(mapping));
}

absl::Status Type1Container::UnmapDma(uint64_t iova, uint64_t size_bytes, uint32_t flags) const {
  vfio_iommu_type1_dma_unmap unmap = {};
  unmap.argsz = sizeof(unmap);
  unmap.flags = flags;
  unmap.iova = iova;
  unmap.size = size_bytes;
  return Call(CPR_VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), &unmap).status();
}

absl::Status Type1Container::Map(const DmaMapping& mapping) {
  const uint32_t flags = VFIO_DMA_MAP_FLAG_READ | (mapping.writable ? VFIO_DMA_MAP_FLAG_WRITE : 0);
  CPR_RETURN_IF_ERROR(MapDma(mapping, flags, MappedBytes() + mapping.size_bytes));
  mappings_.push_back(mapping);
  return absl::OkStatus();
}

absl::Status Type1Container::Unmap(uint64_t iova) {
  const auto found =
      std::find_if(mappings_.begin(), mappings_.end(), [&](const DmaMapping& m) { return m.iova == iova; });
  if (found == mappings_.end()) {
    return absl::NotFoundError(absl::StrCat("no DMA mapping begins at 0x", absl::Hex(iova)));
  }
  CPR_RETURN_IF_ERROR(Annotate(UnmapDma(found->iova, found->size_bytes, 0), NameOf(*found)));
  mappings_.erase(found);
  return absl::OkStatus();
}

absl::Status Type1Container::CheckHandover() const {
  CPR_ASSIGN_OR_RETURN(const int update, Extension(VFIO_UPDATE_VADDR));
  CPR_ASSIGN_OR_RETURN(const int all, Extension(VFIO_UNMAP_ALL));
  if (update > 0 && all > 0) return absl::OkStatus();
  return absl::UnimplementedError("VFIO container does not support VFIO_UPDATE_VADDR");
}

absl::Status Type1Container::ReleaseMappings() {
  if (mappings_.empty()) return absl::OkStatus();
  return UnmapDma(0, 0, VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL);
}

absl::Status Type1Container::TakeMapping(const DmaMapping& mapping) const {
  return MapDma(mapping, VFIO_DMA_MAP_FLAG_VADDR, MappedBytes());
}

absl::Status Type1Container::ReleaseMapping(const DmaMapping& mapping) const {
  return Annotate(UnmapDma(mapping.iova, mapping.size_bytes, VFIO_DMA_UNMAP_FLAG_VADDR), NameOf(mapping));
}

absl::Status Type1Container::TakeMappings() {
  for (size_t i = 0; i < mappings_.size(); ++i) {
    const absl::Status status = TakeMapping(mappings_[i]);
    if (status.ok()) continue;
    while (i-- > 0) ReleaseMapping(mappings_[i]).IgnoreError();  // the first failure is what matters
    return status;
  }
  return absl::OkStatus();
}

absl::Status Type1Container::ReclaimMappings() {
  absl::Status first;
  for (const DmaMapping& mapping : mappings_) {
    absl::Status status = TakeMapping(mapping);
    // EINVAL: it has an address, in another process or in this one, because not even ReleaseMappings came to it.
    if (StatusErrno(status) == EINVAL && ReleaseMapping(mapping).ok()) status = TakeMapping(mapping);
    first.Update(status);
  }
  return first;
}

}  // namespace cpr::vfio
