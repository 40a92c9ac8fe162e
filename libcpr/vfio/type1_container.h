#ifndef LIBCPR_VFIO_TYPE1_CONTAINER_H_
#define LIBCPR_VFIO_TYPE1_CONTAINER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/ioctl_function.h"
#include "libcpr/base/unique_fd.h"

namespace cpr::vfio {

// Memory that devices reach: `size_bytes` from I/O virtual address `iova` on are at `vaddr` in this process. All three
// are multiples of the page size. The memory is lent. A plain value.
struct DmaMapping {
  uint64_t iova = 0;  // for guest RAM, its gpa
  uint64_t size_bytes = 0;
  uint8_t* vaddr = nullptr;
  bool writable = true;  // by devices

  friend bool operator==(const DmaMapping&, const DmaMapping&) = default;
};

// A VFIO container with a type 1 IOMMU: what the devices of its groups may reach, and the hand-over of that to another
// process, during which they go on reaching it. The kernel has the pages pinned all the time; what changes hands is the
// address that they have in a process, and whose locked memory they count as.
//
//   old process                       new process
//   ReleaseMappings
//                       fd, list ->   Adopt, TakeMappings
//   ReclaimMappings     if that fails, or if the new process has died
//
// From ReleaseMappings to one of the others the guest may run, and its devices with it; nothing can be mapped
// meanwhile. Thread-compatible. Errors name the request that the kernel refused, and carry errno. Source:
// <linux/vfio.h>, VFIO_DMA_UNMAP_FLAG_VADDR and VFIO_DMA_MAP_FLAG_VADDR; Documentation/driver-api/vfio.rst.
class Type1Container {
 public:
  // Opens /dev/vfio/vfio.
  static absl::StatusOr<UniqueFd> Open();
  // Takes a container that nobody has used yet. An empty `ioctl` is the kernel's. kUnimplemented: the host has another
  // version of VFIO, or no IOMMU of type 1.
  static absl::StatusOr<Type1Container> Create(UniqueFd fd, IoctlFunction ioctl = {});
  // Takes one that has come with its groups from another process: `mappings` are all that it has, as they are to be in
  // this one. Calls nothing.
  static Type1Container Adopt(UniqueFd fd, std::vector<DmaMapping> mappings, IoctlFunction ioctl = {});

  int fd() const { return fd_.get(); }  // lent
  const std::vector<DmaMapping>& mappings() const { return mappings_; }

  // Puts a group (lent) into the container, before its devices are opened. Its IOMMU gets the mappings that there are.
  // kFailedPrecondition, naming `group`: some of its devices belong to drivers of the host.
  absl::Status AddGroup(int group_fd, absl::string_view group);

  // Lets devices reach the memory, which is pinned. kResourceExhausted: the limit of locked memory is too low, with the
  // limit and what would be locked. After an error nothing has changed.
  absl::Status Map(const DmaMapping& mapping);
  // Unpins what one Map has pinned. kNotFound: no mapping begins at `iova`.
  absl::Status Unmap(uint64_t iova);

  // Whether another process can have it, for check. Asks the kernel, as a mediated device among its groups rules it
  // out. kUnimplemented, in QEMU's words.
  absl::Status CheckHandover() const;

  // Gives up the addresses in this process. After an error nothing has changed.
  absl::Status ReleaseMappings();
  // Has released mappings at this process' addresses. After an error, which names the mapping, all of them are released
  // as before. kResourceExhausted as in Map.
  absl::Status TakeMappings();
  // The same in the process that has released them, whatever another one has done since: also mappings that one took
  // and died with. Goes on after an error, and returns the first.
  absl::Status ReclaimMappings();

 private:
  Type1Container(UniqueFd fd, std::vector<DmaMapping> mappings, IoctlFunction ioctl);
  absl::StatusOr<int> Call(unsigned long request, absl::string_view name, void* argument) const;            // NOLINT
  absl::StatusOr<int> CallFd(int fd, unsigned long request, absl::string_view name, void* argument) const;  // NOLINT
  absl::StatusOr<int> Extension(unsigned long extension) const;                                             // NOLINT
  absl::Status MapDma(const DmaMapping& mapping, uint32_t flags, uint64_t locked_bytes) const;
  uint64_t MappedBytes() const;
  absl::Status UnmapDma(uint64_t iova, uint64_t size_bytes, uint32_t flags) const;
  absl::Status TakeMapping(const DmaMapping& mapping) const;
  absl::Status ReleaseMapping(const DmaMapping& mapping) const;

  UniqueFd fd_;
  IoctlFunction ioctl_;
  std::vector<DmaMapping> mappings_;
  bool has_iommu_ = false;
};

}  // namespace cpr::vfio

#endif  // LIBCPR_VFIO_TYPE1_CONTAINER_H_
