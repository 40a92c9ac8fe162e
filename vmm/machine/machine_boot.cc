// How a machine starts, and starts again.
#include <string>

#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/acpi/tables.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/pvh.h"
#include "vmm/machine/machine.h"

namespace cpr {

namespace {

// What a PC's firmware keeps for itself: its data area, video memory, ROMs; here the ACPI tables.
constexpr RamRange kFirmwareArea = {0x9fc00, 0x100000 - 0x9fc00};

// KVM's own pages on Intel.
RamRange KvmPages(const kvm::VmConfig& config) {
  constexpr uint64_t kPageBytes = 4096, kTssPages = 3;
  return {config.identity_map_gpa, config.tss_gpa + kTssPages * kPageBytes - config.identity_map_gpa};
}

// Loads the kernel by the protocol that it knows, and sets the boot vCPU's registers to its entry.
absl::Status LoadKernel(const BootRequest& request, const GuestRam& ram, kvm_regs* regs, kvm_sregs* sregs) {
  if (IsLinuxImage(request.kernel)) {
    CPR_ASSIGN_OR_RETURN(const BzImageEntry entry, LoadBzImage(request, ram));
    FillBzImageRegisters(entry, regs, sregs);
  } else {
    CPR_ASSIGN_OR_RETURN(const PvhEntry entry, LoadPvh(request, ram));
    FillPvhRegisters(entry, regs, sregs);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Machine::WriteAcpiTables() {
  const std::string tables = BuildAcpiTables({.vcpus = static_cast<uint32_t>(kvm_plan_.vcpus.size()),
                                              .kernel_irqchip = kvm_plan_.vm.irqchip == kvm::IrqchipKind::kFull,
                                              .serial = serial_ != nullptr,
                                              .pci = platform_->pci().windows()});
  const auto ram = [this](uint64_t gpa, uint64_t size_bytes) { return memory_.At(gpa, size_bytes); };
  return Annotate(CopyToGuest(ram, kAcpiTablesGpa, tables, kAcpiTablesLimitBytes), "ACPI tables");
}

absl::Status Machine::Boot() {
  BootRequest request;
  request.kernel_name = description_.kernel.value_or("");
  request.cmdline = description_.append.value_or("");
  request.initrd_name = description_.initrd.value_or("");
  request.rsdp_gpa = kAcpiRsdpGpa;
  CPR_ASSIGN_OR_RETURN(const std::string kernel, ReadBootFile(request.kernel_name));
  request.kernel = kernel;
  std::string initrd;
  if (!request.initrd_name.empty()) {
    CPR_ASSIGN_OR_RETURN(initrd, ReadBootFile(request.initrd_name));
    request.initrd = initrd;
  }
  for (const RamBlock& block : memory_.blocks()) request.ram.push_back({block.gpa(), block.size_bytes()});
  const PciWindows::Range& ecam = platform_->pci().windows().ecam;
  request.reserved = {kFirmwareArea, {ecam.base, ecam.size_bytes}, KvmPages(kvm_plan_.vm)};
  kvm::Vcpu& vcpu = *vcpus_->vcpus().front();
  CPR_ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu.Sregs());
  kvm_regs regs = {};
  const auto ram = [this](uint64_t gpa, uint64_t size_bytes) { return memory_.At(gpa, size_bytes); };
  CPR_RETURN_IF_ERROR(LoadKernel(request, ram, &regs, &sregs));
  CPR_RETURN_IF_ERROR(WriteAcpiTables());
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

absl::Status Machine::ResetAllButRam() {
  CPR_ASSIGN_OR_RETURN(const ResetState state, MakeResetState(*system_, kvm_plan_));
  CPR_RETURN_IF_ERROR(platform_->Reset());
  CPR_RETURN_IF_ERROR(RestoreResetState(state));
  ran_ = false;
  return absl::OkStatus();
}

absl::Status Machine::Reset() {
  Pause();
  CPR_RETURN_IF_ERROR(Annotate(ResetAllButRam(), "system reset"));
  return Boot();
}

}  // namespace cpr
