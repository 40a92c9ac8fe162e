#ifndef LIBCPR_KVM_SYSTEM_H_
#define LIBCPR_KVM_SYSTEM_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/kvm/caps.h"
#include "libcpr/kvm/uapi.h"
#include "libcpr/kvm/vm.h"

namespace cpr::kvm {

// The host's KVM: /dev/kvm, opened and asked what it can do. Thread-safe once made.
class [[nodiscard]] System {
 public:
  // Opens `path`, checks the API version and the required capabilities.
  // kUnimplemented: "host KVM lacks KVM_CAP_X", or another API version. Else the errno of open(2).
  static absl::StatusOr<System> Create(const std::string& path = "/dev/kvm");
  // The same on an open /dev/kvm. Takes ownership of `fd`, also when an error is returned.
  static absl::StatusOr<System> Adopt(UniqueFd fd);

  // Lent.
  int fd() const { return fd_.get(); }
  const HostCaps& caps() const { return caps_; }

  absl::StatusOr<std::vector<kvm_cpuid_entry2>> SupportedCpuid() const;
  absl::StatusOr<std::vector<uint32_t>> MsrIndexList() const;
  absl::StatusOr<Vm> CreateVm() const;

 private:
  System(UniqueFd fd, HostCaps caps, size_t vcpu_run_size_bytes)
      : fd_(std::move(fd)), caps_(caps), vcpu_run_size_bytes_(vcpu_run_size_bytes) {}

  UniqueFd fd_;
  HostCaps caps_;
  size_t vcpu_run_size_bytes_ = 0;
};

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_SYSTEM_H_
