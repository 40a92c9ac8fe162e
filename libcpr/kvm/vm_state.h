#ifndef LIBCPR_KVM_VM_STATE_H_
#define LIBCPR_KVM_VM_STATE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/kvm/caps.h"
#include "libcpr/kvm/clock.h"
#include "libcpr/kvm/gsi_routes.h"
#include "libcpr/kvm/uapi.h"
#include "libcpr/kvm/vm.h"

// The state of a VM beside its vCPUs and its RAM, in two parts: how it is built (VmConfig, an early section) and what
// changes while it runs (VmState, a late one). docs/ordering.md says how they interleave with the vCPUs'.

namespace cpr::kvm {

enum class IrqchipKind {
  kNone,   // no interrupt controller in the kernel
  kSplit,  // LAPICs in the kernel, IOAPIC in user space
  kFull,   // PIC, IOAPIC and LAPICs in the kernel
};

// How a VM is built. A plain value.
struct VmConfig {
  IrqchipKind irqchip = IrqchipKind::kSplit;
  uint32_t split_irqchip_routes = 24;      // GSIs kept for the user-space IOAPIC
  bool pit = false;                        // a PIT in the kernel; needs kFull
  uint32_t pit_flags = 0;                  // KVM_PIT_SPEAKER_DUMMY
  uint64_t tss_gpa = 0xfffbd000;           // 3 pages
  uint64_t identity_map_gpa = 0xfffbc000;  // 1 page
  uint64_t x2apic_api_flags = 0;           // KVM_X2APIC_API_*; 0 = not enabled
  uint32_t boot_vcpu_id = 0;
  bool exception_payload = false;   // KVM_CAP_EXCEPTION_PAYLOAD is enabled
  bool triple_fault_event = false;  // KVM_CAP_X86_TRIPLE_FAULT_EVENT is enabled
};

// Builds an empty VM as `config` says, before any vCPU and, as memslots and irqchip slow each other, before the
// memslots. Errors name the step: "configure VM, step IRQCHIP: ...". kUnimplemented: the host lacks what the config
// asks for.
absl::Status ConfigureVm(Vm& vm, const VmConfig& config, const HostCaps& caps);

struct IrqchipState {
  kvm_pic_state pic_master = {};
  kvm_pic_state pic_slave = {};
  kvm_ioapic_state ioapic = {};
};

// What the VM is at while its vCPUs are stopped. A plain value.
struct VmState {
  ClockState clock;
  std::optional<IrqchipState> irqchip;  // kFull only
  std::optional<kvm_pit_state2> pit;
  std::vector<kvm_irq_routing_entry> routes;
};

// Saves the VM, its vCPUs stopped and its irqfds detached; before the vCPUs, so that a tick of the kernel's PIT between
// the two is found in a LAPIC. `tsc_khz`: VcpuConfig::tsc_khz, 0 if not known. Errors name the ioctl.
absl::StatusOr<VmState> SaveVm(const Vm& vm, const VmConfig& config, const GsiRoutes& routes, uint32_t tsc_khz);

// Puts interrupt controllers, routes and PIT of `state` into `vm`: after all its vCPUs were restored (the IOAPIC sends
// what is pending on to their LAPICs) and before irqfds are attached. `routes` are the VM's, and are set if they
// differ. The clock is RestoreClock's. Errors name the step: "restore VM, step IOAPIC: ...". kInvalidArgument: `state`
// does not fit `config`; nothing was touched.
absl::Status RestoreVm(Vm& vm, const VmState& state, const VmConfig& config, GsiRoutes& routes);

// The names of RestoreVm's steps, in their order.
std::vector<const char*> VmRestoreSteps();

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_VM_STATE_H_
