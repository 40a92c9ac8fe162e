#include "tests/guest/guest_vm.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/kvm/clock.h"
#include "libcpr/kvm/vcpu_state.h"

namespace cpr::testing {
namespace {

constexpr uint64_t kHoleGpa = uint64_t{3} << 30, kHighGpa = uint64_t{4} << 30;
constexpr uint16_t kCom1 = 0x3f8;
constexpr int kKick = SIGUSR1;

void IgnoreSignal(int) {}

// What every vCPU is told, with its own APIC id in it.
std::vector<kvm_cpuid_entry2> CpuidOf(std::vector<kvm_cpuid_entry2> entries, uint32_t id, bool x2apic) {
  for (kvm_cpuid_entry2& entry : entries) {
    if (entry.function == 1) {
      entry.ebx = (entry.ebx & 0x00ffffff) | id << 24;
      if (!x2apic) entry.ecx &= ~(1u << 21);
    }
    if (entry.function == 0xb || entry.function == 0x1f) entry.edx = id;
  }
  return entries;
}

}  // namespace

GuestVm::GuestVm(const Options& options, kvm::System system, kvm::Vm vm)
    : options_(options), system_(std::move(system)), vm_(std::move(vm)) {
  config_.irqchip = options.full_irqchip ? kvm::IrqchipKind::kFull : kvm::IrqchipKind::kSplit;
  config_.pit = options.full_irqchip;
  if (options.full_irqchip) routes_ = kvm::GsiRoutes::OfFullIrqchip();
}

absl::StatusOr<std::unique_ptr<GuestVm>> GuestVm::Create(const Options& options) {
  struct sigaction action = {};
  action.sa_handler = IgnoreSignal;
  ::sigaction(kKick, &action, nullptr);
  CPR_ASSIGN_OR_RETURN(kvm::System system, kvm::System::Create());
  CPR_ASSIGN_OR_RETURN(kvm::Vm vm, system.CreateVm());
  auto guest = std::unique_ptr<GuestVm>(new GuestVm(options, std::move(system), std::move(vm)));
  CPR_RETURN_IF_ERROR(kvm::ConfigureVm(guest->vm_, guest->config_, guest->system_.caps()));
  CPR_RETURN_IF_ERROR(guest->MapRam());
  CPR_RETURN_IF_ERROR(guest->CreateVcpus());
  CPR_RETURN_IF_ERROR(guest->Load());
  for (auto& vcpu : guest->vcpus_) {
    vcpu->thread = std::thread([guest = guest.get(), self = vcpu.get()] { guest->RunVcpu(self); });
  }
  return guest;
}

absl::Status GuestVm::MapRam() {
  const uint64_t low = std::min(options_.ram_bytes, kHoleGpa), high = options_.ram_bytes - low;
  CPR_ASSIGN_OR_RETURN(low_, Mapping::CreateAnonymous(low));
  if (high != 0) {
    CPR_ASSIGN_OR_RETURN(high_, Mapping::CreateAnonymous(high));
  }
  return AddRam(&vm_);
}

absl::Status GuestVm::AddRam(kvm::Vm* vm) {
  CPR_RETURN_IF_ERROR(vm->SetUserMemoryRegion({0, 0, 0, low_.size_bytes(), reinterpret_cast<uint64_t>(low_.data())}));
  if (high_.size_bytes() == 0) return absl::OkStatus();
  return vm->SetUserMemoryRegion({1, 0, kHighGpa, high_.size_bytes(), reinterpret_cast<uint64_t>(high_.data())});
}

absl::Status GuestVm::CreateVcpus() {
  CPR_ASSIGN_OR_RETURN(const std::vector<kvm_cpuid_entry2> cpuid, system_.SupportedCpuid());
  for (uint32_t i = 0; i < options_.vcpus; ++i) {
    CPR_ASSIGN_OR_RETURN(kvm::Vcpu vcpu, vm_.CreateVcpu(i));
    CPR_RETURN_IF_ERROR(vcpu.SetCpuid2(CpuidOf(cpuid, i, options_.offer_x2apic)));
    vcpus_.push_back(std::make_unique<VcpuThread>(std::move(vcpu)));
  }
  return absl::OkStatus();
}

absl::Status GuestVm::Rebuild() {
  CPR_ASSIGN_OR_RETURN(const kvm::VcpuSavePlan plan, kvm::PlanVcpuSave(system_, vcpu(0)));
  CPR_ASSIGN_OR_RETURN(const kvm::VmState state, kvm::SaveVm(vm_, config_, routes_, abi().tsc_khz));
  std::vector<kvm::VcpuConfig> configs;
  std::vector<kvm::VcpuState> states;
  for (auto& vcpu : vcpus_) {
    CPR_ASSIGN_OR_RETURN(kvm::VcpuConfig config, kvm::SaveVcpuConfig(vcpu->vcpu, plan.caps));
    configs.push_back(std::move(config));
    CPR_ASSIGN_OR_RETURN(kvm::VcpuState vcpu_state, kvm::SaveVcpu(vcpu->vcpu, plan));
    states.push_back(std::move(vcpu_state));
  }
  CPR_ASSIGN_OR_RETURN(kvm::Vm vm, system_.CreateVm());
  CPR_RETURN_IF_ERROR(kvm::ConfigureVm(vm, config_, plan.caps));
  CPR_RETURN_IF_ERROR(AddRam(&vm));
  for (auto& vcpu : vcpus_) {
    CPR_ASSIGN_OR_RETURN(vcpu->vcpu, vm.CreateVcpu(vcpu->vcpu.id()));
    CPR_RETURN_IF_ERROR(kvm::ConfigureVcpu(vcpu->vcpu, configs[vcpu->vcpu.id()], plan.caps));
  }
  CPR_ASSIGN_OR_RETURN(const uint64_t tsc_step,
                       kvm::RestoreClock(vm, state.clock, kvm::ClockRule::kSameKernel, plan.caps));
  for (auto& vcpu : vcpus_) {
    kvm::VcpuState& vcpu_state = states[vcpu->vcpu.id()];
    vcpu_state.tsc_offset += tsc_step;
    CPR_RETURN_IF_ERROR(kvm::RestoreVcpu(vcpu->vcpu, vcpu_state, plan.caps));
    CPR_RETURN_IF_ERROR(kvm::NotifyGuestStopped(vcpu->vcpu));
  }
  if (!options_.full_irqchip) routes_ = kvm::GsiRoutes();
  CPR_RETURN_IF_ERROR(kvm::RestoreVm(vm, state, config_, routes_));
  vm_ = std::move(vm);
  return absl::OkStatus();
}

absl::Status GuestVm::Load() {
  CPR_ASSIGN_OR_RETURN(const std::string kernel, ReadBootFile("tests/guest/payload.elf"));
  BootRequest boot;
  boot.kernel_name = "payload.elf";
  boot.kernel = kernel;
  boot.cmdline = absl::StrCat("cpus=", options_.vcpus, " ", options_.cmdline);
  boot.ram = {{0, low_.size_bytes()}};
  if (high_.size_bytes() != 0) boot.ram.push_back({kHighGpa, high_.size_bytes()});
  CPR_ASSIGN_OR_RETURN(const PvhEntry entry,
                       LoadPvh(boot, [this](uint64_t gpa, uint64_t size) { return Ram(gpa, size); }));
  CPR_ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu(0).Sregs());
  kvm_regs regs;
  FillPvhRegisters(entry, &regs, &sregs);
  CPR_RETURN_IF_ERROR(vcpu(0).SetSregs(sregs));
  return vcpu(0).SetRegs(regs);
}

absl::StatusOr<absl::Span<uint8_t>> GuestVm::Ram(uint64_t gpa, uint64_t size_bytes) {
  const Mapping& mapping = gpa < kHighGpa ? low_ : high_;
  const uint64_t offset = gpa < kHighGpa ? gpa : gpa - kHighGpa;
  if (offset > mapping.size_bytes() || size_bytes > mapping.size_bytes() - offset)
    return absl::OutOfRangeError(absl::StrCat("no RAM at 0x", absl::Hex(gpa), "+", size_bytes));
  return absl::MakeSpan(mapping.data() + offset, size_bytes);
}

GuestVm::~GuestVm() {
  Pause();
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  for (auto& vcpu : vcpus_) {
    if (vcpu->thread.joinable()) vcpu->thread.join();
  }
}

void GuestVm::Resume() {
  MutexLock lock(&mutex_);
  for (auto& vcpu : vcpus_) vcpu->vcpu.SetImmediateExit(false);
  ++resumes_;
  parked_ = 0;
  changed_.SignalAll();
}

void GuestVm::Pause() {
  MutexLock lock(&mutex_);
  if (resumes_ == 0) return;
  for (auto& vcpu : vcpus_) {
    vcpu->vcpu.SetImmediateExit(true);
    ::pthread_kill(vcpu->thread.native_handle(), kKick);
  }
  while (parked_ != vcpus_.size()) changed_.Wait(&mutex_);
}

// Runs once for each Resume, until a pause or an error; ends with the VM.
void GuestVm::RunVcpu(VcpuThread* self) {
  for (uint64_t seen = 0;;) {
    {
      MutexLock lock(&mutex_);
      while (resumes_ == seen && !stop_) changed_.Wait(&mutex_);
      if (stop_) return;
      seen = resumes_;
    }
    const absl::Status status = RunUntilPaused(&self->vcpu);
    MutexLock lock(&mutex_);
    if (!status.ok() && ended_.ok()) ended_ = status;
    ++parked_;
    changed_.SignalAll();
  }
}

// Ends only where KVM_RUN was interrupted with immediate_exit set: pending I/O is completed then.
absl::Status GuestVm::RunUntilPaused(kvm::Vcpu* vcpu) {
  for (;;) {
    CPR_ASSIGN_OR_RETURN(const kvm::Vcpu::Outcome outcome, vcpu->Run());
    if (outcome == kvm::Vcpu::Outcome::kExit) {
      CPR_RETURN_IF_ERROR(Serve(vcpu));
    } else if (std::atomic_ref<uint8_t>(vcpu->run()->immediate_exit).load(std::memory_order_relaxed) != 0) {
      return absl::OkStatus();
    }
  }
}

absl::Status GuestVm::Serve(kvm::Vcpu* vcpu) {
  kvm_run* run = vcpu->run();
  if (options_.serve && options_.serve(this, run)) return absl::OkStatus();
  if (run->exit_reason == KVM_EXIT_IO) {
    Serial(run);
    return absl::OkStatus();
  }
  if (run->exit_reason == KVM_EXIT_IOAPIC_EOI) return absl::OkStatus();
  const absl::StatusOr<kvm_regs> regs = vcpu->Regs();
  return absl::AbortedError(absl::StrCat("vcpu ", vcpu->id(), " exit ", run->exit_reason, " at rip 0x",
                                         absl::Hex(regs.ok() ? regs->rip : 0)));
}

void GuestVm::Serial(kvm_run* run) {
  uint8_t* data = reinterpret_cast<uint8_t*>(run) + run->io.data_offset;
  const uint16_t reg = run->io.port - kCom1;
  for (uint32_t i = 0; i < run->io.count; ++i, data += run->io.size) {
    if (run->io.direction == KVM_EXIT_IO_IN) {
      std::memset(data, 0xff, run->io.size);
      if (reg < 8) *data = ReadSerial(reg);
    } else if (reg < 8) {
      WriteSerial(reg, *data);
    }
  }
}

uint8_t GuestVm::ReadSerial(uint16_t reg) {
  MutexLock lock(&mutex_);
  if (reg == 5) return 0x60 | (typed_.empty() ? 0 : 1);
  if (reg != 0 || typed_.empty()) return 0;
  const uint8_t c = typed_.front();
  typed_.erase(0, 1);
  return c;
}

void GuestVm::WriteSerial(uint16_t reg, uint8_t value) {
  if (reg == 0) {
    MutexLock lock(&mutex_);
    serial_.push_back(static_cast<char>(value));
  }
  if (reg == 1 && (value & 2) != 0 && options_.full_irqchip) {  // "transmitter empty" is enabled, and it is empty
    vm_.IrqLine(4, true).IgnoreError();
    vm_.IrqLine(4, false).IgnoreError();
  }
}

std::string GuestVm::serial() {
  MutexLock lock(&mutex_);
  return serial_;
}

void GuestVm::Type(char c) {
  MutexLock lock(&mutex_);
  typed_.push_back(c);
}

absl::Status GuestVm::WaitFor(const std::function<bool()>& done, absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (!done()) {
    {
      MutexLock lock(&mutex_);
      if (!ended_.ok()) return Annotate(ended_, serial_);
      if (absl::Now() > end) return absl::DeadlineExceededError(serial_);
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::OkStatus();
}

absl::Status GuestVm::WaitRunning() {
  return WaitFor([this] { return abi().magic == CPR_GUEST_MAGIC && abi().state == CPR_GUEST_RUNNING; });
}

absl::StatusOr<uint32_t> GuestVm::Verify() {
  const uint64_t request = abi().verify_request + 1;
  abi().verify_request = request;
  CPR_RETURN_IF_ERROR(WaitFor([this, request] { return abi().verify_done == request; }));
  return abi().verify_result;
}

}  // namespace cpr::testing
