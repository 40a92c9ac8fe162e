#include "libcpr/testing/kvm_gate.h"

#include <fcntl.h>
#include <linux/kvm.h>

#include "absl/strings/str_cat.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/base/unique_fd.h"

namespace cpr::testing {
namespace {

constexpr size_t kGuestBytes = 4096;
constexpr uint8_t kHlt = 0xf4;

// Puts the vCPU on guest address 0, in the real mode that it starts in.
absl::Status StartAtZero(int vcpu) {
  kvm_sregs sregs;
  CPR_RETURN_IF_ERROR(CPR_IOCTL(vcpu, KVM_GET_SREGS, &sregs).status());
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  CPR_RETURN_IF_ERROR(CPR_IOCTL(vcpu, KVM_SET_SREGS, &sregs).status());
  kvm_regs regs = {};
  regs.rflags = 2;
  return CPR_IOCTL(vcpu, KVM_SET_REGS, &regs).status();
}

absl::Status RunHltGuest() {
  const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm.ok()) return ErrnoStatus(errno, "open /dev/kvm");
  CPR_ASSIGN_OR_RETURN(const int vm_fd, CPR_IOCTL(kvm.get(), KVM_CREATE_VM, 0));
  const UniqueFd vm(vm_fd);
  CPR_ASSIGN_OR_RETURN(const Mapping ram, Mapping::CreateAnonymous(kGuestBytes));
  ram.data()[0] = kHlt;
  kvm_userspace_memory_region region = {};
  region.memory_size = kGuestBytes;
  region.userspace_addr = reinterpret_cast<uint64_t>(ram.data());
  CPR_RETURN_IF_ERROR(CPR_IOCTL(vm.get(), KVM_SET_USER_MEMORY_REGION, &region).status());
  CPR_ASSIGN_OR_RETURN(const int vcpu_fd, CPR_IOCTL(vm.get(), KVM_CREATE_VCPU, 0));
  const UniqueFd vcpu(vcpu_fd);
  CPR_ASSIGN_OR_RETURN(const int run_bytes, CPR_IOCTL(kvm.get(), KVM_GET_VCPU_MMAP_SIZE, 0));
  CPR_ASSIGN_OR_RETURN(const Mapping run, Mapping::Create(vcpu.get(), 0, run_bytes));
  CPR_RETURN_IF_ERROR(StartAtZero(vcpu.get()));
  CPR_RETURN_IF_ERROR(CPR_IOCTL(vcpu.get(), KVM_RUN, 0).status());
  const uint32_t reason = reinterpret_cast<const kvm_run*>(run.data())->exit_reason;
  if (reason == KVM_EXIT_HLT) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("KVM_RUN of a HLT guest: exit reason ", reason));
}

}  // namespace

absl::Status KvmUsable() {
  static const auto* const usable = new absl::Status(RunHltGuest());
  return *usable;
}

}  // namespace cpr::testing
