#include "libcpr/kvm/vm_state.h"

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr::kvm {
namespace {

struct ConfigureArgs {
  Vm& vm;
  const VmConfig& config;
  const HostCaps& caps;
};

absl::Status SetAddresses(const ConfigureArgs& a) {
  CPR_RETURN_IF_ERROR(a.vm.SetIdentityMapAddr(a.config.identity_map_gpa));
  return a.vm.SetTssAddr(a.config.tss_gpa);
}

absl::Status EnableX2ApicApi(const ConfigureArgs& a) {
  const uint64_t flags = a.config.x2apic_api_flags;
  if (flags == 0) return absl::OkStatus();
  if (const uint64_t missing = flags & ~a.caps.x2apic_api_flags; missing != 0) {
    return absl::UnimplementedError(absl::StrCat("host KVM lacks KVM_CAP_X2APIC_API flags 0x", absl::Hex(missing)));
  }
  return a.vm.EnableX2ApicApi(flags);
}

absl::Status EnableExceptionPayload(const ConfigureArgs& a) {
  if (!a.config.exception_payload) return absl::OkStatus();
  if (!a.caps.exception_payload) return absl::UnimplementedError("host KVM lacks KVM_CAP_EXCEPTION_PAYLOAD");
  return a.vm.EnableExceptionPayload();
}

absl::Status EnableTripleFaultEvent(const ConfigureArgs& a) {
  if (!a.config.triple_fault_event) return absl::OkStatus();
  if (!a.caps.triple_fault_event) return absl::UnimplementedError("host KVM lacks KVM_CAP_X86_TRIPLE_FAULT_EVENT");
  return a.vm.EnableTripleFaultEvent();
}

absl::Status CreateIrqchip(const ConfigureArgs& a) {
  switch (a.config.irqchip) {
    case IrqchipKind::kNone:
      return absl::OkStatus();
    case IrqchipKind::kSplit:
      return a.vm.EnableSplitIrqchip(a.config.split_irqchip_routes);
    case IrqchipKind::kFull:
      return a.vm.CreateIrqchip();
  }
  return absl::InvalidArgumentError("irqchip kind");
}

absl::Status CreatePit(const ConfigureArgs& a) {
  return a.config.pit ? a.vm.CreatePit2(a.config.pit_flags) : absl::OkStatus();
}

absl::Status SetBootCpu(const ConfigureArgs& a) {
  return a.config.boot_vcpu_id == 0 ? absl::OkStatus() : a.vm.SetBootCpuId(a.config.boot_vcpu_id);
}

struct ConfigureStep {
  const char* name;
  absl::Status (*apply)(const ConfigureArgs&);
};
// All of them before the first vCPU; the PIT needs the irqchip.
constexpr ConfigureStep kConfigureOrder[] = {
    {"ADDRESSES", &SetAddresses},
    {"X2APIC_API", &EnableX2ApicApi},
    {"EXCEPTION_PAYLOAD", &EnableExceptionPayload},
    {"TRIPLE_FAULT_EVENT", &EnableTripleFaultEvent},
    {"IRQCHIP", &CreateIrqchip},
    {"PIT2", &CreatePit},
    {"BOOT_CPU_ID", &SetBootCpu},
};

absl::StatusOr<IrqchipState> SaveIrqchip(const Vm& vm) {
  IrqchipState state;
  CPR_ASSIGN_OR_RETURN(const kvm_irqchip ioapic, vm.Irqchip(KVM_IRQCHIP_IOAPIC));
  CPR_ASSIGN_OR_RETURN(const kvm_irqchip master, vm.Irqchip(KVM_IRQCHIP_PIC_MASTER));
  CPR_ASSIGN_OR_RETURN(const kvm_irqchip slave, vm.Irqchip(KVM_IRQCHIP_PIC_SLAVE));
  state.ioapic = ioapic.chip.ioapic;
  state.pic_master = master.chip.pic;
  state.pic_slave = slave.chip.pic;
  return state;
}

struct RestoreArgs {
  Vm& vm;
  const VmState& state;
  GsiRoutes& routes;
};

absl::Status SetPic(const RestoreArgs& a, uint32_t chip_id, const kvm_pic_state IrqchipState::*pic) {
  if (!a.state.irqchip.has_value()) return absl::OkStatus();
  kvm_irqchip chip = {.chip_id = chip_id};
  chip.chip.pic = (*a.state.irqchip).*pic;
  return a.vm.SetIrqchip(chip);
}

absl::Status SetPicMaster(const RestoreArgs& a) { return SetPic(a, KVM_IRQCHIP_PIC_MASTER, &IrqchipState::pic_master); }
absl::Status SetPicSlave(const RestoreArgs& a) { return SetPic(a, KVM_IRQCHIP_PIC_SLAVE, &IrqchipState::pic_slave); }

absl::Status SetIoapic(const RestoreArgs& a) {
  if (!a.state.irqchip.has_value()) return absl::OkStatus();
  kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
  chip.chip.ioapic = a.state.irqchip->ioapic;
  return a.vm.SetIrqchip(chip);
}

absl::Status SetRoutes(const RestoreArgs& a) {
  a.routes.Replace(a.state.routes);
  return a.routes.Commit(a.vm);
}

absl::Status SetPit(const RestoreArgs& a) {
  return a.state.pit.has_value() ? a.vm.SetPit2(*a.state.pit) : absl::OkStatus();
}

struct RestoreStep {
  const char* name;
  absl::Status (*apply)(const RestoreArgs&);
};
// Order matters, see docs/ordering.md: the PIT ticks from SET_PIT2 on, through GSI 0's routes into PIC and IOAPIC.
constexpr RestoreStep kRestoreOrder[] = {
    {"PIC_MASTER", &SetPicMaster}, {"PIC_SLAVE", &SetPicSlave}, {"IOAPIC", &SetIoapic},
    {"GSI_ROUTES", &SetRoutes},    {"PIT2", &SetPit},
};

absl::Status CheckFits(const VmState& state, const VmConfig& config) {
  if (state.irqchip.has_value() != (config.irqchip == IrqchipKind::kFull)) {
    return absl::InvalidArgumentError("restore VM: the state's interrupt controllers are not those of the VM");
  }
  if (state.pit.has_value() != config.pit) {
    return absl::InvalidArgumentError("restore VM: only one of the state and the VM has a PIT");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ConfigureVm(Vm& vm, const VmConfig& config, const HostCaps& caps) {
  for (const ConfigureStep& step : kConfigureOrder) {
    const absl::Status status = step.apply({vm, config, caps});
    if (!status.ok()) return Annotate(status, absl::StrCat("configure VM, step ", step.name));
  }
  return absl::OkStatus();
}

absl::StatusOr<VmState> SaveVm(const Vm& vm, const VmConfig& config, const GsiRoutes& routes, uint32_t tsc_khz) {
  VmState state;
  CPR_ASSIGN_OR_RETURN(state.clock, SaveClock(vm, tsc_khz));
  if (config.irqchip == IrqchipKind::kFull) {
    CPR_ASSIGN_OR_RETURN(state.irqchip, SaveIrqchip(vm));
  }
  if (config.pit) {
    CPR_ASSIGN_OR_RETURN(state.pit, vm.Pit2());
  }
  state.routes = routes.entries();
  return state;
}

absl::Status RestoreVm(Vm& vm, const VmState& state, const VmConfig& config, GsiRoutes& routes) {
  CPR_RETURN_IF_ERROR(CheckFits(state, config));
  for (const RestoreStep& step : kRestoreOrder) {
    const absl::Status status = step.apply({vm, state, routes});
    if (!status.ok()) return Annotate(status, absl::StrCat("restore VM, step ", step.name));
  }
  return absl::OkStatus();
}

std::vector<const char*> VmRestoreSteps() {
  std::vector<const char*> names;
  for (const RestoreStep& step : kRestoreOrder) names.push_back(step.name);
  return names;
}

}  // namespace cpr::kvm
