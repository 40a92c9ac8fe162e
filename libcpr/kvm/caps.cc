#include "libcpr/kvm/caps.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/flex.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::kvm {
namespace {

struct RequiredCap {
  int cap;
  const char* name;
};
#define CPR_CAP(cap) \
  { cap, #cap }
// All of them are in Linux 5.16 and later, whatever the CPU. VCPU_ATTRIBUTES is the newest: KVM_VCPU_TSC_OFFSET,
// without which guest TSCs could only be written one by one and would drift apart.
constexpr RequiredCap kRequired[] = {
    CPR_CAP(KVM_CAP_USER_MEMORY),
    CPR_CAP(KVM_CAP_SET_TSS_ADDR),
    CPR_CAP(KVM_CAP_SET_IDENTITY_MAP_ADDR),
    CPR_CAP(KVM_CAP_IRQCHIP),
    CPR_CAP(KVM_CAP_SPLIT_IRQCHIP),
    CPR_CAP(KVM_CAP_PIT2),
    CPR_CAP(KVM_CAP_PIT_STATE2),
    CPR_CAP(KVM_CAP_IRQ_ROUTING),
    CPR_CAP(KVM_CAP_IRQFD),
    CPR_CAP(KVM_CAP_IOEVENTFD),
    CPR_CAP(KVM_CAP_SIGNAL_MSI),
    CPR_CAP(KVM_CAP_X2APIC_API),
    CPR_CAP(KVM_CAP_EXT_CPUID),
    CPR_CAP(KVM_CAP_MP_STATE),
    CPR_CAP(KVM_CAP_VCPU_EVENTS),
    CPR_CAP(KVM_CAP_DEBUGREGS),
    CPR_CAP(KVM_CAP_XSAVE),
    CPR_CAP(KVM_CAP_XCRS),
    CPR_CAP(KVM_CAP_ADJUST_CLOCK),
    CPR_CAP(KVM_CAP_TSC_DEADLINE_TIMER),
    CPR_CAP(KVM_CAP_IMMEDIATE_EXIT),
    CPR_CAP(KVM_CAP_VCPU_ATTRIBUTES),
};
#undef CPR_CAP

// 0 when KVM does not know `cap`; the ioctl itself cannot fail on a KVM fd.
uint32_t Extension(int kvm_fd, int cap) {
  const auto value = CPR_IOCTL(kvm_fd, KVM_CHECK_EXTENSION, cap);
  return value.ok() ? static_cast<uint32_t>(*value) : 0;
}

// The user-visible XSTATE_BV bits of CPUID leaf 0xd, subleaf 0.
absl::StatusOr<uint64_t> XsaveFeatures(int kvm_fd) {
  constexpr uint32_t kMaxCpuidEntries = 256;  // KVM_MAX_CPUID_ENTRIES
  internal::Flex<kvm_cpuid2, kvm_cpuid_entry2> cpuid(kMaxCpuidEntries);
  cpuid->nent = kMaxCpuidEntries;
  CPR_RETURN_IF_ERROR(CPR_IOCTL(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid.get()).status());
  for (const kvm_cpuid_entry2& entry : cpuid.Take(cpuid->nent)) {
    if (entry.function == 0xd && entry.index == 0) return entry.eax | uint64_t{entry.edx} << 32 | 3;
  }
  return 3;
}

}  // namespace

bool AllowGuestAmx() {
  constexpr long kArchReqXcompGuestPerm = 0x1025;  // asm/prctl.h
  constexpr long kXfeatureXtileData = 18;
  return ::syscall(SYS_arch_prctl, kArchReqXcompGuestPerm, kXfeatureXtileData) == 0;
}

absl::StatusOr<HostCaps> QueryHostCaps(int kvm_fd) {
  for (const RequiredCap& required : kRequired) {
    CPR_ASSIGN_OR_RETURN(const int value, CPR_IOCTL(kvm_fd, KVM_CHECK_EXTENSION, required.cap));
    if (value == 0) return absl::UnimplementedError(absl::StrCat("host KVM lacks ", required.name));
  }
  HostCaps caps;
  const uint32_t xsave2_size_bytes = Extension(kvm_fd, KVM_CAP_XSAVE2);
  caps.xsave2 = xsave2_size_bytes != 0;
  caps.xsave_size_bytes = std::max(xsave2_size_bytes, caps.xsave_size_bytes);
  CPR_ASSIGN_OR_RETURN(caps.xsave_features, XsaveFeatures(kvm_fd));
  caps.sregs2 = Extension(kvm_fd, KVM_CAP_SREGS2) != 0;
  caps.nested_state_size_bytes = Extension(kvm_fd, KVM_CAP_NESTED_STATE);
  caps.get_tsc_khz = Extension(kvm_fd, KVM_CAP_GET_TSC_KHZ) != 0;
  caps.tsc_control = Extension(kvm_fd, KVM_CAP_TSC_CONTROL) != 0;
  caps.triple_fault_event = Extension(kvm_fd, KVM_CAP_X86_TRIPLE_FAULT_EVENT) != 0;
  caps.exception_payload = Extension(kvm_fd, KVM_CAP_EXCEPTION_PAYLOAD) != 0;
  caps.irqfd_resample = Extension(kvm_fd, KVM_CAP_IRQFD_RESAMPLE) != 0;
  caps.kvmclock_ctrl = Extension(kvm_fd, KVM_CAP_KVMCLOCK_CTRL) != 0;
  caps.clock_flags = Extension(kvm_fd, KVM_CAP_ADJUST_CLOCK);
  caps.x2apic_api_flags = Extension(kvm_fd, KVM_CAP_X2APIC_API);
  caps.max_memslots = Extension(kvm_fd, KVM_CAP_NR_MEMSLOTS);
  caps.max_gsi_routes = Extension(kvm_fd, KVM_CAP_IRQ_ROUTING);
  caps.max_vcpus = Extension(kvm_fd, KVM_CAP_MAX_VCPUS);
  caps.max_vcpu_id = std::max(Extension(kvm_fd, KVM_CAP_MAX_VCPU_ID), caps.max_vcpus);
  return caps;
}

}  // namespace cpr::kvm
