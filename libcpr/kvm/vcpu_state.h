#ifndef LIBCPR_KVM_VCPU_STATE_H_
#define LIBCPR_KVM_VCPU_STATE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/kvm/caps.h"
#include "libcpr/kvm/system.h"
#include "libcpr/kvm/uapi.h"
#include "libcpr/kvm/vcpu.h"

// The state of a vCPU, in two parts: what is fixed before it first runs (VcpuConfig, an early section), and what
// changes while it runs (VcpuState, a late one). docs/ordering.md says what comes when, and why.

namespace cpr::kvm {

// What must be set before the vCPU first runs. A plain value.
struct VcpuConfig {
  uint32_t id = 0;
  std::vector<kvm_cpuid_entry2> cpuid;
  std::optional<uint32_t> tsc_khz;  // absent: the host that saved cannot tell
};

// What a vCPU is at while it is stopped. A plain value; optional members are absent where the host that saved does not
// offer the item.
struct VcpuState {
  uint32_t id = 0;
  kvm_mp_state mp_state = {};
  kvm_regs regs = {};
  kvm_sregs2 sregs = {};       // without KVM_SREGS2_FLAGS_PDPTRS_VALID the PDPTRs are in guest RAM
  std::vector<uint8_t> xsave;  // uncompacted XSAVE area, 4096 bytes or more
  kvm_xcrs xcrs = {};
  kvm_debugregs debugregs = {};
  std::optional<kvm_lapic_state> lapic;  // absent: the VM has no LAPIC in the kernel
  std::vector<kvm_msr_entry> msrs;       // without the TSC
  kvm_vcpu_events events = {};
  std::vector<uint8_t> nested_state;  // kvm_nested_state and its data; empty: no nested virtualisation
  uint64_t tsc_offset = 0;            // guest TSC = host TSC + tsc_offset
};

// The XSAVE features that `xsave` (576 bytes or more) holds: XSTATE_BV of its header.
uint64_t XsaveFeatures(const std::vector<uint8_t>& xsave);

// What there is to save on this host for vCPUs of one kind. Asked before the pause, so that the pause has no needless
// ioctl in it. A plain value.
struct VcpuSavePlan {
  HostCaps caps;
  bool lapic = true;
  std::vector<uint32_t> msrs;
};
// `probe`: a vCPU with its CPUID set, not running. The plan fits all vCPUs with the same CPUID.
absl::StatusOr<VcpuSavePlan> PlanVcpuSave(const System& system, const Vcpu& probe);

// Reads what ConfigureVcpu wrote. The vCPU must not be running.
absl::StatusOr<VcpuConfig> SaveVcpuConfig(const Vcpu& vcpu, const HostCaps& caps);

// Sets CPUID and TSC frequency of a new vCPU that has not run. kUnimplemented: the frequency is another than the host's
// (by more than 250 ppm, KVM's own tolerance) and the host lacks KVM_CAP_TSC_CONTROL.
absl::Status ConfigureVcpu(Vcpu& vcpu, const VcpuConfig& config, const HostCaps& caps);

// Saves a stopped vCPU whose pending I/O is completed (one Run() with immediate_exit), after the irqfds were detached.
// Changes nothing: the vCPU can go on. Errors name the ioctl and the vCPU.
absl::StatusOr<VcpuState> SaveVcpu(const Vcpu& vcpu, const VcpuSavePlan& plan);

// Puts `state` into a configured vCPU that has not run. The VM's clock must have been set. Errors name the step:
// "restore vcpu 3, step MSRS: ...". kUnimplemented: the host lacks an item that the state holds; checked before the
// first step. After an error the vCPU is good for nothing but to be destroyed.
absl::Status RestoreVcpu(Vcpu& vcpu, const VcpuState& state, const HostCaps& caps);

// The names of RestoreVcpu's steps, in their order.
std::vector<const char*> VcpuRestoreSteps();

// Tells a guest with kvm-clock that it was stopped, so that its watchdogs do not bark. After RestoreVcpu, before Run.
// OK also where the guest has no kvm-clock.
absl::Status NotifyGuestStopped(Vcpu& vcpu);

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_VCPU_STATE_H_
