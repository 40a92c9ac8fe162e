#include "libcpr/vfio/fake_type1.h"

#include <linux/vfio.h>

#include <algorithm>
#include <cerrno>

namespace cpr::vfio::testing {
namespace {

const char* NameOf(unsigned long request) {  // NOLINT(google-runtime-int)
  switch (request) {
    case VFIO_GET_API_VERSION:
      return "VFIO_GET_API_VERSION";
    case VFIO_CHECK_EXTENSION:
      return "VFIO_CHECK_EXTENSION";
    case VFIO_GROUP_GET_STATUS:
      return "VFIO_GROUP_GET_STATUS";
    case VFIO_GROUP_SET_CONTAINER:
      return "VFIO_GROUP_SET_CONTAINER";
    case VFIO_GROUP_UNSET_CONTAINER:
      return "VFIO_GROUP_UNSET_CONTAINER";
    case VFIO_SET_IOMMU:
      return "VFIO_SET_IOMMU";
    case VFIO_IOMMU_MAP_DMA:
      return "VFIO_IOMMU_MAP_DMA";
    case VFIO_IOMMU_UNMAP_DMA:
      return "VFIO_IOMMU_UNMAP_DMA";
  }
  return "an unknown request";
}

}  // namespace

IoctlFunction FakeType1::As(int process) {
  return [this, process](int fd, unsigned long request, void* argument) {
    calls.emplace_back(NameOf(request));
    int result = -error_;
    if (fail_after_ != size_t{0}) result = Answer(process, fd, request, argument);
    if (fail_after_.has_value() && (*fail_after_)-- == 0) fail_after_.reset();
    if (result >= 0) return result;
    errno = -result;
    return -1;
  };
}

void FakeType1::FailOne(size_t after, int error) {
  fail_after_ = after;
  error_ = error;
}

uint64_t FakeType1::LockedBytes(int process) const {
  uint64_t bytes = 0;
  for (const auto& [iova, mapping] : pinned) bytes += mapping.process == process ? mapping.size_bytes : 0;
  return bytes;
}

int FakeType1::Answer(int process, int fd, unsigned long request, void* argument) {
  switch (request) {
    case VFIO_GET_API_VERSION:
      return api_version;
    case VFIO_CHECK_EXTENSION:
      return Extension(reinterpret_cast<uintptr_t>(argument));
    case VFIO_GROUP_GET_STATUS:
      return GroupStatus(fd, argument);
    case VFIO_GROUP_SET_CONTAINER:
      if (std::find(groups.begin(), groups.end(), fd) != groups.end()) return -EINVAL;
      groups.push_back(fd);
      return 0;
    case VFIO_GROUP_UNSET_CONTAINER:
      return std::erase(groups, fd) == 1 ? 0 : -EINVAL;
    case VFIO_SET_IOMMU:
      if (groups.empty() || has_iommu || reinterpret_cast<uintptr_t>(argument) != VFIO_TYPE1v2_IOMMU) return -EINVAL;
      has_iommu = true;
      return 0;
    case VFIO_IOMMU_MAP_DMA:
      return has_iommu ? MapDma(process, argument) : -EINVAL;
    case VFIO_IOMMU_UNMAP_DMA:
      return has_iommu ? UnmapDma(argument) : -EINVAL;
  }
  return -ENOTTY;
}

int FakeType1::Extension(uintptr_t extension) {
  if (extension == VFIO_TYPE1v2_IOMMU) return has_type1;
  if (extension == VFIO_UPDATE_VADDR) return has_iommu && has_update_vaddr;
  if (extension == VFIO_UNMAP_ALL) return has_iommu && has_unmap_all;
  return 0;
}

int FakeType1::GroupStatus(int fd, void* argument) {
  auto* const status = static_cast<vfio_group_status*>(argument);
  if (status->argsz < sizeof(*status)) return -EINVAL;
  status->flags = fd == kGroupOfTheHost ? 0 : VFIO_GROUP_FLAGS_VIABLE;
  return 0;
}

int FakeType1::MapDma(int process, void* argument) {
  const auto& map = *static_cast<const vfio_iommu_type1_dma_map*>(argument);
  if (map.argsz < sizeof(map) || map.size == 0 || ((map.iova | map.size | map.vaddr) & 0xfff) != 0) return -EINVAL;
  const bool set_vaddr = (map.flags & VFIO_DMA_MAP_FLAG_VADDR) != 0;
  const bool for_devices = (map.flags & (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)) != 0;
  if (set_vaddr == for_devices) return -EINVAL;
  if (set_vaddr) return GiveVaddr(process, map.iova, map.size, map.vaddr);
  const auto next = pinned.lower_bound(map.iova);
  if (next != pinned.end() && next->first < map.iova + map.size) return -EEXIST;
  if (next != pinned.begin() && std::prev(next)->first + std::prev(next)->second.size_bytes > map.iova) return -EEXIST;
  const auto limit = locked_limit_bytes.find(process);
  if (limit != locked_limit_bytes.end() && LockedBytes(process) + map.size > limit->second) return -ENOMEM;
  pinned[map.iova] = {.size_bytes = map.size,
                      .vaddr = map.vaddr,
                      .writable = (map.flags & VFIO_DMA_MAP_FLAG_WRITE) != 0,
                      .process = process};
  return 0;
}

int FakeType1::GiveVaddr(int process, uint64_t iova, uint64_t size_bytes, uint64_t vaddr) {
  const auto found = pinned.find(iova);
  if (found == pinned.end()) return -ENOENT;
  Pinned& mapping = found->second;
  if (mapping.has_vaddr || mapping.size_bytes != size_bytes) return -EINVAL;
  const auto limit = locked_limit_bytes.find(process);
  const bool moves = mapping.process != process;
  if (moves && limit != locked_limit_bytes.end() && LockedBytes(process) + size_bytes > limit->second) return -ENOMEM;
  mapping.vaddr = vaddr;
  mapping.has_vaddr = true;
  mapping.process = process;
  return 0;
}

int FakeType1::UnmapDma(void* argument) {
  auto& unmap = *static_cast<vfio_iommu_type1_dma_unmap*>(argument);
  if (unmap.argsz < sizeof(unmap)) return -EINVAL;
  const bool vaddr = (unmap.flags & VFIO_DMA_UNMAP_FLAG_VADDR) != 0;
  if ((unmap.flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0) {
    return vaddr && unmap.iova == 0 && unmap.size == 0 ? TakeAllVaddrs() : -EINVAL;
  }
  const auto found = pinned.find(unmap.iova);
  if (found == pinned.end() || found->second.size_bytes != unmap.size) return -EINVAL;
  if (!vaddr) {
    pinned.erase(found);
    ++unpinned;
    return 0;
  }
  if (!found->second.has_vaddr) return -EINVAL;
  found->second.has_vaddr = false;
  return 0;
}

int FakeType1::TakeAllVaddrs() {
  for (const auto& [iova, mapping] : pinned) {
    if (!mapping.has_vaddr) return -EINVAL;
  }
  for (auto& [iova, mapping] : pinned) mapping.has_vaddr = false;
  return 0;
}

}  // namespace cpr::vfio::testing
