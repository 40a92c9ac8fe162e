#include "libcpr/kvm/system.h"

#include <fcntl.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/kvm/flex.h"

namespace cpr::kvm {
namespace {
constexpr uint32_t kMaxCpuidEntries = 256;  // KVM_MAX_CPUID_ENTRIES
constexpr uint32_t kMaxMsrs = 4096;         // some 450 with every PMU and VMX MSR
}  // namespace

absl::StatusOr<System> System::Create(const std::string& path) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDWR));
  return Adopt(std::move(fd));
}

absl::StatusOr<System> System::Adopt(UniqueFd fd) {
  CPR_ASSIGN_OR_RETURN(const int version, CPR_IOCTL(fd.get(), KVM_GET_API_VERSION, 0));
  if (version != KVM_API_VERSION) {
    return absl::UnimplementedError(absl::StrCat("host KVM has API version ", version, ", not ", KVM_API_VERSION));
  }
  CPR_ASSIGN_OR_RETURN(const HostCaps caps, QueryHostCaps(fd.get()));
  CPR_ASSIGN_OR_RETURN(const int run_size_bytes, CPR_IOCTL(fd.get(), KVM_GET_VCPU_MMAP_SIZE, 0));
  return System(std::move(fd), caps, static_cast<size_t>(run_size_bytes));
}

absl::StatusOr<std::vector<kvm_cpuid_entry2>> System::SupportedCpuid() const {
  internal::Flex<kvm_cpuid2, kvm_cpuid_entry2> cpuid(kMaxCpuidEntries);
  cpuid->nent = kMaxCpuidEntries;
  CPR_RETURN_IF_ERROR(CPR_IOCTL(fd(), KVM_GET_SUPPORTED_CPUID, cpuid.get()).status());
  return cpuid.Take(cpuid->nent);
}

absl::StatusOr<std::vector<uint32_t>> System::MsrIndexList() const {
  internal::Flex<kvm_msr_list, uint32_t> list(kMaxMsrs);
  list->nmsrs = kMaxMsrs;
  CPR_RETURN_IF_ERROR(CPR_IOCTL(fd(), KVM_GET_MSR_INDEX_LIST, list.get()).status());
  return list.Take(list->nmsrs);
}

absl::StatusOr<Vm> System::CreateVm() const {
  // KVM_CREATE_VM is known to answer EINTR when a signal arrives while it starts its helper thread.
  absl::StatusOr<int> vm_fd;
  do {
    vm_fd = CPR_IOCTL(fd(), KVM_CREATE_VM, 0);
  } while (!vm_fd.ok() && StatusErrno(vm_fd.status()) == EINTR);
  if (!vm_fd.ok()) return vm_fd.status();
  return Vm::Adopt(UniqueFd(*vm_fd), vcpu_run_size_bytes_);
}

}  // namespace cpr::kvm
