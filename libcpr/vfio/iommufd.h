#ifndef LIBCPR_VFIO_IOMMUFD_H_
#define LIBCPR_VFIO_IOMMUFD_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/ioctl_function.h"
#include "libcpr/base/unique_fd.h"

namespace cpr::vfio {

// A file's memory that devices reach: `size_bytes` of it from `offset_bytes` on are at I/O virtual address `iova`. All
// are multiples of the page size. The memfd is lent to Map alone: the kernel keeps the file. A plain value.
struct FileDmaMapping {
  uint64_t iova = 0;  // for guest RAM, its gpa
  uint64_t size_bytes = 0;
  int fd = -1;
  uint64_t offset_bytes = 0;
  bool writable = true;  // by devices
};

// An iommufd with one I/O address space, of files' memory as a rule: what devices may reach, and the hand-over of that
// to another process, during which they go on reaching it. The mappings are the file's and stay as they are; what
// changes hands is whose locked memory they count as, all at once (what a process with CAP_IPC_LOCK maps counts as
// nobody's).
//
//   old process                       new process
//                       fd, id ->     Adopt, TakeOver
//   TakeOver            if that has been done and then something else failed
//
// Thread-compatible. Errors name the request that the kernel refused, and carry errno.
// Source: Linux, include/uapi/linux/iommufd.h; Documentation/userspace-api/iommufd.rst.
class Iommufd {
 public:
  // Opens /dev/iommu.
  static absl::StatusOr<UniqueFd> Open();
  // Takes one that nobody has used yet, and makes its address space. An empty `ioctl` is the kernel's.
  static absl::StatusOr<Iommufd> Create(UniqueFd fd, IoctlFunction ioctl = {});
  // Takes one that has come from another process, with its address space. Calls nothing.
  static Iommufd Adopt(UniqueFd fd, uint32_t ioas_id, IoctlFunction ioctl = {});

  int fd() const { return fd_.get(); }  // lent
  uint32_t ioas_id() const { return ioas_id_; }

  // Lets a device (lent, opened below /dev/vfio/devices) reach what is mapped, from now on for as long as its fd is
  // open in any process. To be done once, by the process that opened it. Returns the device's number in the iommufd.
  // kResourceExhausted as in Map: the first device is when the memory is pinned.
  absl::StatusOr<uint32_t> Attach(int device_fd);

  // Lets devices reach the memory, which is pinned. kUnimplemented: the kernel lacks IOMMU_IOAS_MAP_FILE (Linux 6.13).
  // kResourceExhausted: the limit of locked memory is too low, with the limit and what would be locked. After an error
  // nothing has changed.
  absl::Status Map(const FileDmaMapping& mapping);
  // The same for `size_bytes` of this process' memory at `vaddr`, which stay mapped there: for files that the kernel
  // cannot pin (it takes memfds and files of tmpfs and hugetlbfs), as a DAX device. CheckHandover refuses from then on.
  absl::Status MapVaddr(uint64_t iova, uint64_t size_bytes, uint8_t* vaddr);
  // Unpins what is mapped in that range, which must begin and end with mappings.
  absl::Status Unmap(uint64_t iova, uint64_t size_bytes);

  // Whether another process can have it, for check: asks the kernel for what costs nothing in the process that has it.
  // kUnimplemented, in QEMU's words, if it cannot (before Linux 6.14, or memory that is no file's).
  absl::Status CheckHandover() const;
  // Has it counted for this process. After an error nothing has changed. kResourceExhausted as in Map: until it is
  // done, the memory counts for both, which one user may not be allowed. A program that has come by execve, whose user
  // pays for it anyway, may go on without.
  absl::Status TakeOver();

 private:
  Iommufd(UniqueFd fd, uint32_t ioas_id, IoctlFunction ioctl);
  absl::Status Call(unsigned long request, absl::string_view name, void* argument) const;            // NOLINT
  absl::Status CallFd(int fd, unsigned long request, absl::string_view name, void* argument) const;  // NOLINT
  absl::Status ChangeProcess() const;

  UniqueFd fd_;
  uint32_t ioas_id_;
  IoctlFunction ioctl_;
  uint64_t mapped_bytes_ = 0;  // by this process
};

}  // namespace cpr::vfio

#endif  // LIBCPR_VFIO_IOMMUFD_H_
