#ifndef LIBCPR_KVM_CAPS_H_
#define LIBCPR_KVM_CAPS_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace cpr::kvm {

// What this host's KVM offers beyond what libcpr requires. A plain value; asked once, when System is opened.
struct HostCaps {
  uint32_t xsave_size_bytes = 4096;      // of KVM_GET_XSAVE2 with KVM_CAP_XSAVE2, else of KVM_GET_XSAVE
  bool xsave2 = false;                   // KVM_CAP_XSAVE2
  uint64_t xsave_features = 3;           // XSTATE_BV bits that a guest may use: CPUID leaf 0xd; x87 and SSE always
  bool sregs2 = false;                   // KVM_CAP_SREGS2: PDPTRs travel with the segment registers
  uint32_t nested_state_size_bytes = 0;  // KVM_CAP_NESTED_STATE, the largest state; 0 = no nested virtualisation
  bool get_tsc_khz = false;              // KVM_CAP_GET_TSC_KHZ
  bool tsc_control = false;              // KVM_CAP_TSC_CONTROL: the guest's TSC may run at another frequency
  bool triple_fault_event = false;       // KVM_CAP_X86_TRIPLE_FAULT_EVENT
  bool exception_payload = false;        // KVM_CAP_EXCEPTION_PAYLOAD
  bool irqfd_resample = false;           // KVM_CAP_IRQFD_RESAMPLE
  bool kvmclock_ctrl = false;            // KVM_CAP_KVMCLOCK_CTRL
  uint32_t clock_flags = 0;              // KVM_CAP_ADJUST_CLOCK: KVM_CLOCK_TSC_STABLE, _REALTIME, _HOST_TSC
  uint64_t x2apic_api_flags = 0;         // KVM_CAP_X2APIC_API: the flags that may be set
  uint32_t max_memslots = 0;             // KVM_CAP_NR_MEMSLOTS
  uint32_t max_gsi_routes = 0;           // KVM_CAP_IRQ_ROUTING
  uint32_t max_vcpus = 0;                // KVM_CAP_MAX_VCPUS
  uint32_t max_vcpu_id = 0;              // KVM_CAP_MAX_VCPU_ID: ids below it are valid
};

// Lets the vCPUs that this process creates from now on use AMX, where the host has it: arch_prctl(2)
// ARCH_REQ_XCOMP_GUEST_PERM. Without it KVM offers no AMX. Call it before System::Create; it acts on the whole process.
// Returns whether AMX is allowed.
bool AllowGuestAmx();

// Asks the KVM behind `kvm_fd` (lent). kUnimplemented "host KVM lacks KVM_CAP_X" names the first required capability
// that is missing.
absl::StatusOr<HostCaps> QueryHostCaps(int kvm_fd);

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_CAPS_H_
