#include "vmm/machine/kvm_plan.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "vmm/machine/cpuid.h"

namespace cpr {
namespace {

absl::Status NoSlots(kvm::Vm&) { return absl::OkStatus(); }

kvm::VmConfig PlanVm(const kvm::HostCaps& caps, bool kernel_irqchip) {
  kvm::VmConfig config;
  config.irqchip = kernel_irqchip ? kvm::IrqchipKind::kFull : kvm::IrqchipKind::kSplit;
  config.pit = kernel_irqchip;
  config.pit_flags = kernel_irqchip ? KVM_PIT_SPEAKER_DUMMY : 0;
  config.x2apic_api_flags =
      caps.x2apic_api_flags & (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
  config.exception_payload = caps.exception_payload;
  config.triple_fault_event = caps.triple_fault_event;
  return config;
}

}  // namespace

absl::StatusOr<KvmPlan> PlanKvm(const kvm::System& system, const MachineDescription& machine) {
  const uint32_t count = machine.vcpus.value_or(1);
  if (count > system.caps().max_vcpus) {
    return absl::UnimplementedError(
        absl::StrCat("host KVM runs at most ", system.caps().max_vcpus, " vCPUs, the machine has ", count));
  }
  CPR_ASSIGN_OR_RETURN(const std::vector<kvm_cpuid_entry2> supported, system.SupportedCpuid());
  KvmPlan plan;
  plan.vm = PlanVm(system.caps(), machine.irqchip == IrqchipKind::kKernel);
  for (uint32_t id = 0; id < count; ++id) plan.vcpus.push_back({.id = id, .cpuid = GuestCpuid(supported, id, count)});
  return plan;
}

absl::StatusOr<BareVm> CreateBareVm(const kvm::System& system, const KvmPlan& plan,
                                    absl::FunctionRef<absl::Status(kvm::Vm& vm)> add_slots) {
  CPR_ASSIGN_OR_RETURN(kvm::Vm vm, system.CreateVm());
  const bool slots_first = plan.vm.irqchip == kvm::IrqchipKind::kFull;
  if (slots_first) CPR_RETURN_IF_ERROR(add_slots(vm));
  CPR_RETURN_IF_ERROR(kvm::ConfigureVm(vm, plan.vm, system.caps()));
  if (!slots_first) CPR_RETURN_IF_ERROR(add_slots(vm));
  std::vector<kvm::Vcpu> vcpus;
  for (const kvm::VcpuConfig& config : plan.vcpus) {
    CPR_ASSIGN_OR_RETURN(kvm::Vcpu vcpu, vm.CreateVcpu(config.id));
    CPR_RETURN_IF_ERROR(kvm::ConfigureVcpu(vcpu, config, system.caps()));
    vcpus.push_back(std::move(vcpu));
  }
  return BareVm{std::move(vm), std::move(vcpus)};
}

absl::StatusOr<kvm::VcpuSavePlan> PlanSave(const kvm::System& system, const KvmPlan& plan) {
  KvmPlan probe{.vm = plan.vm, .vcpus = {plan.vcpus.front()}};
  // What else is in the kernel is slow to make and to destroy, and nothing to a vCPU but its LAPIC.
  probe.vm.pit = false;
  if (probe.vm.irqchip == kvm::IrqchipKind::kFull) probe.vm.irqchip = kvm::IrqchipKind::kSplit;
  CPR_ASSIGN_OR_RETURN(const BareVm bare, CreateBareVm(system, probe, NoSlots));
  return kvm::PlanVcpuSave(system, bare.vcpus.front());
}

absl::StatusOr<ResetState> MakeResetState(const kvm::System& system, const KvmPlan& plan) {
  CPR_ASSIGN_OR_RETURN(BareVm bare, CreateBareVm(system, plan, NoSlots));
  CPR_ASSIGN_OR_RETURN(const kvm::VcpuSavePlan save, kvm::PlanVcpuSave(system, bare.vcpus.front()));
  std::vector<const kvm::Vcpu*> vcpus;
  for (const kvm::Vcpu& vcpu : bare.vcpus) vcpus.push_back(&vcpu);
  ResetState state;
  const kvm::GsiRoutes routes =
      plan.vm.irqchip == kvm::IrqchipKind::kFull ? kvm::GsiRoutes::OfFullIrqchip() : kvm::GsiRoutes();
  CPR_ASSIGN_OR_RETURN(state.vm, kvm::SaveVm(bare.vm, plan.vm, routes, /*tsc_khz=*/0));
  CPR_ASSIGN_OR_RETURN(state.vcpus, kvm::SaveVcpus(vcpus, save));
  return state;
}

}  // namespace cpr
