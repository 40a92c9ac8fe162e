// A minimal hypervisor that replaces its own program while its guest runs: same process, same PID, RAM left in place.
//
//   kvm_upgrade     The guest counts, ten beats a second. A line on stdin is the program to upgrade to, an empty one
//                   means this program's file as it is now, and the end of stdin is the end.
//
// One thread runs the only vCPU and everything else in turn. A hypervisor with vCPU threads parks them in Pause.

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/sections.h"
#include "libcpr/kvm/system.h"
#include "libcpr/memory/backend.h"
#include "libcpr/modes/exec.h"
#include "libcpr/preserve/keeper.h"

#ifndef CPR_EXAMPLE_VERSION  // the build makes a version 2 as well, to upgrade to
#define CPR_EXAMPLE_VERSION 1
#endif

namespace {

constexpr uint64_t kRamBytes = 64 << 10;
constexpr uint64_t kCodeGpa = 0x1000;
constexpr uint64_t kCounterGpa = 0x2000;
constexpr uint16_t kBeatPort = 0x80;
constexpr int kBeatMs = 100;

// The guest, in real mode. It counts twice, in a register and in RAM: both have to come along.
constexpr uint8_t kGuest[] = {
    0x66, 0x40,                    // again: inc eax
    0x66, 0xff, 0x06, 0x00, 0x20,  //        inc dword [0x2000]
    0x66, 0xe7, 0x80,              //        out 0x80, eax
    0xeb, 0xf4,                    //        jmp again
};

class Hypervisor : public cpr::OutgoingVm, public cpr::IncomingVm {
 public:
  // A new guest. Its RAM is a memfd: the descriptor, not the mapping, is what outlives execve.
  absl::Status Start() {
    CPR_ASSIGN_OR_RETURN(const auto memory, cpr::CreateMemfdBackend({.name = "guest", .size_bytes = kRamBytes}));
    CPR_ASSIGN_OR_RETURN(block_, cpr::CreateRamBlock(memory, "ram0", /*gpa=*/0, /*offset_bytes=*/0, kRamBytes));
    CPR_RETURN_IF_ERROR(BuildVm());
    std::memcpy(ram_.data() + kCodeGpa, kGuest, sizeof(kGuest));
    CPR_ASSIGN_OR_RETURN(kvm_sregs sregs, kvm_->vcpu.Sregs());
    sregs.cs.base = sregs.cs.selector = 0;
    CPR_RETURN_IF_ERROR(kvm_->vcpu.SetSregs(sregs));
    return kvm_->vcpu.SetRegs({.rip = kCodeGpa, .rflags = 2});
  }

  // Runs the guest until it has counted once more, and returns the count.
  absl::StatusOr<uint32_t> NextBeat() {
    for (bool exited = false; !exited;) {
      CPR_ASSIGN_OR_RETURN(const auto outcome, kvm_->vcpu.Run());
      exited = outcome == cpr::kvm::Vcpu::Outcome::kExit;
    }
    const kvm_run& run = *kvm_->vcpu.run();
    if (run.exit_reason != KVM_EXIT_IO || run.io.port != kBeatPort) {
      return absl::InternalError(absl::StrFormat("the guest left KVM_RUN for reason %d", run.exit_reason));
    }
    uint32_t in_register = 0, in_ram = 0;
    std::memcpy(&in_register, reinterpret_cast<const uint8_t*>(&run) + run.io.data_offset, sizeof(in_register));
    std::memcpy(&in_ram, ram_.data() + kCounterGpa, sizeof(in_ram));
    if (in_register == in_ram) return in_register;
    return absl::DataLossError(absl::StrFormat("the guest counted %d in EAX and %d in RAM", in_register, in_ram));
  }

  // ---- Going out (cpr::OutgoingVm).

  std::vector<std::string> Blockers(cpr::Mode) override { return {}; }

  // The guest still runs: this says what it consists of. Its state is saved once it stands still.
  absl::Status Describe(cpr::Mode, cpr::Inventory& inventory) override {
    CPR_ASSIGN_OR_RETURN(cpr::RamBlock block, block_->Dup());
    inventory.blocks.push_back(std::move(block));
    inventory.mapped.push_back(ram_.data());
    CPR_RETURN_IF_ERROR(cpr::kvm::AddConfigSection(&config_, inventory.sections));
    CPR_ASSIGN_OR_RETURN(auto plan, cpr::kvm::PlanVcpuSave(kvm_->system, kvm_->vcpu));
    return cpr::kvm::AddStateSections(Parts(), std::move(plan), inventory.sections);
  }

  // KVM completes an OUT when the vCPU is entered again. Saved before that, the guest would beat twice.
  absl::Status Pause() override {
    kvm_->vcpu.SetImmediateExit(true);
    const absl::Status completed = kvm_->vcpu.Run().status();
    kvm_->vcpu.SetImmediateExit(false);
    return completed;
  }

  void Resume() override {}   // the upgrade failed: the main loop simply goes on
  void Release() override {}  // execve has let go of everything

  // ---- Coming in (cpr::IncomingVm).

  std::vector<cpr::SectionSupport> Supported() override { return cpr::kvm::KvmSectionSupport(); }
  absl::Status RegisterEarly(cpr::SectionRegistry& sections) override {
    return cpr::kvm::AddConfigSection(&config_, sections);
  }

  // The configuration has been loaded and RAM is at hand. After this the state comes, and then the guest runs.
  absl::Status Build(cpr::Inventory& arrived) override {
    if (arrived.blocks.size() != 1 || arrived.blocks[0].size_bytes() != kRamBytes || config_.vcpus.size() != 1) {
      return absl::DataLossError("the state is of another kind of guest");
    }
    block_ = std::move(arrived.blocks[0]);
    CPR_RETURN_IF_ERROR(BuildVm());
    return cpr::kvm::AddStateSections(Parts(), /*plan=*/{}, arrived.sections);
  }

  void Run() override {}  // the main loop does

 private:
  // What belongs to an address space and is gone with it: each program builds it anew.
  struct Kvm {
    cpr::kvm::System system;
    cpr::kvm::Vm vm;
    cpr::kvm::Vcpu vcpu;
    cpr::kvm::GsiRoutes routes;
  };

  // The same for a guest that starts and for one that comes in; the latter keeps the CPUID that it was born with.
  absl::Status BuildVm() {
    CPR_ASSIGN_OR_RETURN(ram_, cpr::Mapping::Create(block_->fd(), block_->offset_bytes(), block_->size_bytes()));
    CPR_ASSIGN_OR_RETURN(auto system, cpr::kvm::System::Create());
    if (config_.vcpus.empty()) {
      CPR_ASSIGN_OR_RETURN(auto cpuid, system.SupportedCpuid());
      config_.vcpus.push_back({.id = 0, .cpuid = std::move(cpuid)});
    }
    CPR_ASSIGN_OR_RETURN(auto vm, system.CreateVm());
    CPR_RETURN_IF_ERROR(cpr::kvm::ConfigureVm(vm, config_.vm, system.caps()));
    CPR_RETURN_IF_ERROR(vm.SetUserMemoryRegion({.guest_phys_addr = block_->gpa(),
                                                .memory_size = block_->size_bytes(),
                                                .userspace_addr = reinterpret_cast<uint64_t>(ram_.data())}));
    CPR_ASSIGN_OR_RETURN(auto vcpu, vm.CreateVcpu(0));
    CPR_RETURN_IF_ERROR(cpr::kvm::ConfigureVcpu(vcpu, config_.vcpus[0], system.caps()));
    kvm_.emplace(Kvm{std::move(system), std::move(vm), std::move(vcpu), {}});
    return absl::OkStatus();
  }

  cpr::kvm::GuestParts Parts() { return {&kvm_->system, &kvm_->vm, {&kvm_->vcpu}, &kvm_->routes, &config_}; }

  cpr::kvm::GuestConfig config_;
  std::optional<cpr::RamBlock> block_;
  cpr::Mapping ram_;
  std::optional<Kvm> kvm_;
};

void Say(const std::string& text) {
  std::printf("version %d, pid %d: %s\n", CPR_EXAMPLE_VERSION, ::getpid(), text.c_str());
  std::fflush(stdout);  // execve drops what stdio still holds
}

// One line of stdin, byte by byte: the next program must find the lines after it. False: there are no more.
bool ReadLine(std::string* line) {
  for (char c; ::read(STDIN_FILENO, &c, 1) == 1; line->push_back(c)) {
    if (c == '\n') return true;
  }
  return false;
}

absl::Status Run(Hypervisor& hypervisor, const std::vector<std::string>& own_argv) {
  std::string paused;
  pid_t keeper = -1;
  CPR_ASSIGN_OR_RETURN(auto handoff, cpr::ExecHandoff::FromEnvironment());
  if (handoff == nullptr) {
    CPR_RETURN_IF_ERROR(hypervisor.Start());
  } else {
    if (handoff->returned_because()) Say("the guest is back: " + *handoff->returned_because());
    CPR_ASSIGN_OR_RETURN(auto incoming, cpr::CreateExecIncoming(std::move(handoff), {}, &hypervisor));
    CPR_RETURN_IF_ERROR(incoming->Run());  // if this fails, the process becomes the old program again
    paused = absl::StrFormat(", paused for %.1f ms", static_cast<double>(incoming->pause_ns()) / 1e6);
    keeper = incoming->keeper_pid();
  }

  std::unique_ptr<cpr::Outgoing> upgrade;
  for (;;) {
    CPR_ASSIGN_OR_RETURN(const uint32_t beat, hypervisor.NextBeat());
    Say(absl::StrFormat("beat %d%s", beat, std::exchange(paused, "")));
    // The keeper has held the old program's memory over the execve; once it has freed that, it is a zombie.
    if (keeper >= 0 && cpr::ReapKeeper(keeper).value_or(true)) keeper = -1;

    pollfd fds[] = {{upgrade == nullptr ? STDIN_FILENO : -1, POLLIN, 0},
                    {upgrade == nullptr ? -1 : upgrade->fd(), POLLIN, 0}};
    ::poll(fds, 2, kBeatMs);
    if (fds[0].revents != 0) {
      std::string line;
      if (!ReadLine(&line)) return absl::OkStatus();
      cpr::ExecOutgoingOptions options;
      options.command = line.empty() ? own_argv : absl::StrSplit(line, ' ', absl::SkipEmpty());
      options.own_argv = own_argv;
      CPR_ASSIGN_OR_RETURN(upgrade, cpr::CreateExecOutgoing(std::move(options), &hypervisor));
    }
    if (upgrade == nullptr) continue;
    // The new program is first asked, in a child, whether it can take this guest, which beats meanwhile. Then Advance
    // pauses the guest, saves it and becomes the new program: on success it does not return.
    if (const auto done = upgrade->Advance(); !done.ok()) {
      Say("no upgrade, the guest stays here: " + std::string(done.status().message()));
      upgrade.reset();
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Hypervisor hypervisor;
  // Started by a program that asks whether its guest could come here: answer, touch nothing.
  if (cpr::AnswerExecCheckIfAsked(hypervisor.Supported())) return 0;
  const absl::Status status = Run(hypervisor, {argv, argv + argc});
  if (!status.ok()) std::fprintf(stderr, "kvm_upgrade: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
