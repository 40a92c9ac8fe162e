// How a machine starts, and starts again.
#include <algorithm>

#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/boot/pvh.h"
#include "vmm/machine/machine.h"

namespace cpr {

absl::Status Machine::Boot() {
  PvhBoot boot;
  boot.kernel_name = description_.kernel.value_or("");
  boot.cmdline = description_.append.value_or("");
  boot.initrd_name = description_.initrd.value_or("");
  CPR_ASSIGN_OR_RETURN(const std::string kernel, ReadBootFile(boot.kernel_name));
  boot.kernel = kernel;
  std::string initrd;
  if (!boot.initrd_name.empty()) {
    CPR_ASSIGN_OR_RETURN(initrd, ReadBootFile(boot.initrd_name));
    boot.initrd = initrd;
  }
  for (const RamBlock& block : memory_.blocks()) boot.ram.push_back({block.gpa(), block.size_bytes()});
  const auto ram = [this](uint64_t gpa, uint64_t size_bytes) { return memory_.At(gpa, size_bytes); };
  CPR_ASSIGN_OR_RETURN(const PvhEntry entry, LoadPvh(boot, ram));
  kvm::Vcpu& vcpu = *vcpus_->vcpus().front();
  CPR_ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu.Sregs());
  kvm_regs regs = {};
  FillPvhRegisters(entry, &regs, &sregs);
  CPR_RETURN_IF_ERROR(vcpu.SetSregs(sregs));
  return vcpu.SetRegs(regs);
}

absl::Status Machine::RestoreResetState(const ResetState& state) {
  std::vector<kvm::VcpuState> states = state.vcpus;
  // All TSCs start from one offset again, whatever the guest had made of them.
  for (kvm::VcpuState& vcpu : states) vcpu.tsc_offset = states.front().tsc_offset;
  const auto on_threads = [this](size_t count, absl::FunctionRef<void(size_t)> task) {
    vcpus_->RunOnThreads(count, task);
  };
  const std::vector<kvm::Vcpu*> vcpus = vcpus_->vcpus();
  CPR_RETURN_IF_ERROR(kvm::RestoreVcpus(vcpus, states, system_->caps(), on_threads));
  return kvm::RestoreVm(vm_, state.vm, kvm_plan_.vm, platform_->routes());
}

absl::Status Machine::Reset() {
  Pause();
  CPR_ASSIGN_OR_RETURN(const ResetState state, MakeResetState(*system_, kvm_plan_));
  CPR_RETURN_IF_ERROR(Annotate(platform_->Reset(), "system reset"));
  CPR_RETURN_IF_ERROR(Annotate(RestoreResetState(state), "system reset"));
  ran_ = false;
  return Boot();
}

}  // namespace cpr
