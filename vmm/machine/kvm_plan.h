#ifndef VMM_MACHINE_KVM_PLAN_H_
#define VMM_MACHINE_KVM_PLAN_H_

#include <vector>

#include "absl/status/statusor.h"
#include "libcpr/kvm/parallel.h"
#include "libcpr/kvm/sections.h"
#include "libcpr/kvm/system.h"
#include "libcpr/kvm/vcpu_state.h"
#include "libcpr/kvm/vm_state.h"
#include "vmm/options/description.h"

namespace cpr {

// How a machine's VM and vCPUs are configured.
using KvmPlan = kvm::GuestConfig;

// What this host offers a new guest. `machine` is complete.
absl::StatusOr<KvmPlan> PlanKvm(const kvm::System& system, const MachineDescription& machine);

// A VM with its vCPUs as it is right after it was made.
struct BareVm {
  kvm::Vm vm;
  std::vector<kvm::Vcpu> vcpus;
};
// Builds it. `add_slots` gives it its RAM: after a split irqchip (0.4 ms in all, 9 ms the other way round), but before
// PIC, IOAPIC and PIT, which then wait for one grace period less (5 ms rather than 8).
absl::StatusOr<BareVm> CreateBareVm(const kvm::System& system, const KvmPlan& plan,
                                    absl::FunctionRef<absl::Status(kvm::Vm& vm)> add_slots);

// What there is to save of the plan's vCPUs, found out on a VM made for it (about a millisecond): the machine's own
// vCPUs are running.
absl::StatusOr<kvm::VcpuSavePlan> PlanSave(const kvm::System& system, const KvmPlan& plan);

// The state of a VM and its vCPUs as the guest finds them after a reset: that of one newly made.
struct ResetState {
  kvm::VmState vm;
  std::vector<kvm::VcpuState> vcpus;
};
absl::StatusOr<ResetState> MakeResetState(const kvm::System& system, const KvmPlan& plan);

}  // namespace cpr

#endif  // VMM_MACHINE_KVM_PLAN_H_
