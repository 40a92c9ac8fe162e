#include "tests/kvm/test_vm.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/parallel.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::testing {

std::vector<kvm::Vcpu*> TestVm::All() {
  std::vector<kvm::Vcpu*> all;
  for (auto& vcpu : vcpus) all.push_back(vcpu.get());
  return all;
}

absl::StatusOr<TestVm> MakeTestVm(const kvm::System& system, const Mapping& ram, kvm::IrqchipKind irqchip,
                                  uint32_t vcpu_count) {
  CPR_ASSIGN_OR_RETURN(kvm::Vm vm, system.CreateVm());
  TestVm test = {.vm = std::move(vm),
                 .config = {.irqchip = irqchip, .pit = irqchip == kvm::IrqchipKind::kFull},
                 .vcpus = {},
                 .routes = irqchip == kvm::IrqchipKind::kFull ? kvm::GsiRoutes::OfFullIrqchip() : kvm::GsiRoutes(),
                 .vcpu_config = {}};
  CPR_RETURN_IF_ERROR(kvm::ConfigureVm(test.vm, test.config, system.caps()));
  CPR_RETURN_IF_ERROR(test.vm.SetUserMemoryRegion({.slot = 0,
                                                   .guest_phys_addr = 0,
                                                   .memory_size = ram.size_bytes(),
                                                   .userspace_addr = reinterpret_cast<uint64_t>(ram.data())}));
  CPR_ASSIGN_OR_RETURN(const auto cpuid, system.SupportedCpuid());
  for (uint32_t id = 0; id < vcpu_count; ++id) {
    CPR_ASSIGN_OR_RETURN(kvm::Vcpu vcpu, test.vm.CreateVcpu(id));
    CPR_RETURN_IF_ERROR(kvm::ConfigureVcpu(vcpu, {.id = id, .cpuid = cpuid}, system.caps()));
    test.vcpus.push_back(std::make_unique<kvm::Vcpu>(std::move(vcpu)));
  }
  CPR_ASSIGN_OR_RETURN(test.vcpu_config, kvm::SaveVcpuConfig(test.vcpu(), system.caps()));
  return test;
}

absl::Status LoadRealModeCode(kvm::Vcpu& vcpu, const Mapping& ram, absl::Span<const uint8_t> code) {
  std::memcpy(ram.data() + kCodeGpa, code.data(), code.size());
  CPR_ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu.Sregs());
  for (kvm_segment* segment : {&sregs.cs, &sregs.ds, &sregs.es, &sregs.ss}) {
    segment->base = 0;
    segment->selector = 0;
  }
  CPR_RETURN_IF_ERROR(vcpu.SetSregs(sregs));
  CPR_RETURN_IF_ERROR(vcpu.SetMpState({.mp_state = KVM_MP_STATE_RUNNABLE}));
  return vcpu.SetRegs({.rsp = 0x7000, .rip = kCodeGpa, .rflags = 2});
}

bool HonoursTscOffset(kvm::Vcpu& vcpu) {
  const auto before = vcpu.TscOffset();
  if (!before.ok() || !vcpu.SetTscOffset(*before + 1).ok()) return false;
  const auto after = vcpu.TscOffset();
  return vcpu.SetTscOffset(*before).ok() && after.ok() && *after == *before + 1;
}

absl::StatusOr<uint32_t> RunToPort(kvm::Vcpu& vcpu, uint16_t port) {
  kvm::Vcpu::Outcome outcome;
  do {
    CPR_ASSIGN_OR_RETURN(outcome, vcpu.Run());
  } while (outcome == kvm::Vcpu::Outcome::kInterrupted);
  const kvm_run& run = *vcpu.run();
  if (run.exit_reason != KVM_EXIT_IO || run.io.direction != KVM_EXIT_IO_OUT || run.io.port != port) {
    return absl::InternalError(
        absl::StrCat("vcpu ", vcpu.id(), ": exit reason ", run.exit_reason, ", not an out to 0x", absl::Hex(port)));
  }
  uint32_t value = 0;
  std::memcpy(&value, reinterpret_cast<const char*>(&run) + run.io.data_offset, run.io.size);
  return value;
}

absl::Status CompletePendingIo(kvm::Vcpu& vcpu) {
  vcpu.SetImmediateExit(true);
  const auto outcome = vcpu.Run();
  vcpu.SetImmediateExit(false);
  CPR_RETURN_IF_ERROR(outcome.status());
  return *outcome == kvm::Vcpu::Outcome::kInterrupted ? absl::OkStatus()
                                                      : absl::InternalError("immediate_exit ignored");
}

absl::Status HandOver(const kvm::System& system, TestVm& from, TestVm& to, kvm::ClockRule rule) {
  for (auto& vcpu : from.vcpus) CPR_RETURN_IF_ERROR(CompletePendingIo(*vcpu));
  CPR_ASSIGN_OR_RETURN(const kvm::VcpuSavePlan plan, kvm::PlanVcpuSave(system, from.vcpu()));
  CPR_ASSIGN_OR_RETURN(const kvm::VmState vm_state,
                       kvm::SaveVm(from.vm, from.config, from.routes, from.vcpu_config.tsc_khz.value_or(0)));
  const std::vector<kvm::Vcpu*> all = from.All();
  CPR_ASSIGN_OR_RETURN(auto vcpu_states, kvm::SaveVcpus({all.data(), all.size()}, plan));
  CPR_ASSIGN_OR_RETURN(const uint64_t moved, kvm::RestoreClock(to.vm, vm_state.clock, rule, system.caps()));
  for (kvm::VcpuState& state : vcpu_states) state.tsc_offset += moved;
  CPR_RETURN_IF_ERROR(kvm::RestoreVcpus(to.All(), vcpu_states, system.caps()));
  return kvm::RestoreVm(to.vm, vm_state, to.config, to.routes);
}

}  // namespace cpr::testing
