#ifndef LIBCPR_KVM_VFIO_FILES_H_
#define LIBCPR_KVM_VFIO_FILES_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/kvm/vm.h"

namespace cpr::kvm {

// KVM's VFIO device: tells a VM which VFIO groups, or devices of an iommufd, its guest works with, so that the guest's
// caching and its way to them are right, and that mediated devices find their VM. It belongs to the VM as vCPUs do, and
// a new VM needs its own. Thread-compatible.
// Source: Documentation/virt/kvm/devices/vfio.rst.
class [[nodiscard]] VfioFiles {
 public:
  // kUnimplemented: this KVM has no such device.
  static absl::StatusOr<VfioFiles> Create(const Vm& vm);

  // `fd` (lent; KVM keeps the file) is a group's in a container, or a device's that is bound to an iommufd.
  absl::Status Add(int fd) const;

 private:
  explicit VfioFiles(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_VFIO_FILES_H_
