#include "libcpr/kvm/vfio_files.h"

#include <cerrno>
#include <cstdint>

#include "libcpr/base/ioctl.h"
#include "libcpr/base/status_util.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::kvm {
namespace {

// Linux 6.6 renamed KVM_DEV_VFIO_GROUP and its KVM_DEV_VFIO_GROUP_ADD to this.
constexpr uint32_t kFile = 1;
constexpr uint64_t kFileAdd = 1;

}  // namespace

absl::StatusOr<VfioFiles> VfioFiles::Create(const Vm& vm) {
  kvm_create_device request = {.type = KVM_DEV_TYPE_VFIO, .fd = 0, .flags = 0};
  const absl::StatusOr<int> result = CPR_IOCTL(vm.fd(), KVM_CREATE_DEVICE, &request);
  if (!result.ok()) return Annotate(result.status(), "KVM's VFIO device");
  return VfioFiles(UniqueFd(static_cast<int>(request.fd)));
}

absl::Status VfioFiles::Add(int fd) const {
  const int32_t file = fd;
  const kvm_device_attr attr = {
      .flags = 0, .group = kFile, .attr = kFileAdd, .addr = reinterpret_cast<uint64_t>(&file)};
  return CPR_IOCTL(fd_.get(), KVM_SET_DEVICE_ATTR, &attr).status();
}

}  // namespace cpr::kvm
