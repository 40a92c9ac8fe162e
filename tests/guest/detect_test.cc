// Each check of the guest can fail: the host alters one thing behind its back, and the guest says which.

#include <algorithm>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/system.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/guest/fake_edu.h"
#include "tests/guest/guest_vm.h"

namespace cpr::testing {
namespace {

using ::testing::HasSubstr;
using Alter = std::function<absl::Status(GuestVm*)>;

struct Case {
  const char* name;
  Alter alter;
  uint32_t failure;
  const char* reason;
  const char* cmdline = "ws=1";
  uint32_t vcpus = 1;
  bool full_irqchip = false;
  uint32_t xsave_component = 0;  // of what is altered; 0 and 1: every CPU has them
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::string TextOf(GuestVm* guest) { return const_cast<const char*>(guest->abi().fail_text); }

Alter Msr(uint32_t index, std::function<uint64_t(uint64_t)> change) {
  return [=](GuestVm* guest) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(std::vector<kvm_msr_entry> entries, guest->vcpu(0).Msrs({index}));
    if (entries.size() != 1)
      return absl::FailedPreconditionError(absl::StrCat("this host has no MSR 0x", absl::Hex(index)));
    entries[0].data = change(entries[0].data);
    CPR_ASSIGN_OR_RETURN(const size_t written, guest->vcpu(0).SetMsrs(entries));
    return written == 1 ? absl::OkStatus() : absl::InternalError("MSR refused");
  };
}

Alter FlipMsr(uint32_t index, uint64_t bits) {
  return Msr(index, [bits](uint64_t value) { return value ^ bits; });
}

Alter Sregs(std::function<void(kvm_sregs*)> change) {
  return [=](GuestVm* guest) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(kvm_sregs sregs, guest->vcpu(0).Sregs());
    change(&sregs);
    return guest->vcpu(0).SetSregs(sregs);
  };
}

Alter DebugRegs(std::function<void(kvm_debugregs*)> change) {
  return [=](GuestVm* guest) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(kvm_debugregs regs, guest->vcpu(0).DebugRegs());
    change(&regs);
    return guest->vcpu(0).SetDebugRegs(regs);
  };
}

Alter Lapic(uint32_t offset, uint32_t bits) {
  return [=](GuestVm* guest) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(kvm_lapic_state lapic, guest->vcpu(0).Lapic());
    *reinterpret_cast<uint32_t*>(lapic.regs + offset) ^= bits;
    return guest->vcpu(0).SetLapic(lapic);
  };
}

// Flips a bit in the XSAVE area; `feature` is the state component, which must be in use.
Alter Xsave(uint32_t offset, uint32_t feature) {
  return [=](GuestVm* guest) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(std::vector<uint8_t> area, guest->vcpu(0).Xsave());
    if ((area.at(512 + feature / 8) >> feature % 8 & 1) == 0)
      return absl::FailedPreconditionError(absl::StrCat("the guest does not use XSAVE component ", feature));
    area.at(offset) ^= 1;
    return guest->vcpu(0).SetXsave(area);
  };
}

Alter Ram(std::function<uint64_t(GuestVm*)> gpa) {
  return [=](GuestVm* guest) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(const absl::Span<uint8_t> byte, guest->Ram(gpa(guest), 1));
    byte[0] ^= 0x10;
    return absl::OkStatus();
  };
}

// Pauses it again a little later.
absl::Status RunOn(GuestVm* guest) {
  guest->Resume();
  const uint64_t beats = guest->abi().vcpu[0].beats;
  CPR_RETURN_IF_ERROR(guest->WaitFor([&] { return guest->abi().vcpu[0].beats > beats + 1000; }));
  guest->Pause();
  return absl::OkStatus();
}

// Pauses the guest again and again until it is where its general registers hold known values.
absl::Status PauseWhileHolding(GuestVm* guest) {
  for (int i = 0; i < 1000; ++i) {
    CPR_ASSIGN_OR_RETURN(const kvm_regs regs, guest->vcpu(0).Regs());
    if (regs.rip >= guest->abi().hold_begin_rip && regs.rip < guest->abi().hold_end_rip) return absl::OkStatus();
    CPR_RETURN_IF_ERROR(RunOn(guest));
  }
  return absl::InternalError("the guest never holds its registers");
}

Alter Gpr(std::function<void(kvm_regs*)> change) {
  return [=](GuestVm* guest) -> absl::Status {
    CPR_RETURN_IF_ERROR(PauseWhileHolding(guest));
    CPR_ASSIGN_OR_RETURN(kvm_regs regs, guest->vcpu(0).Regs());
    change(&regs);
    return guest->vcpu(0).SetRegs(regs);
  };
}

Alter Clock(int64_t step_ns) {
  return [=](GuestVm* guest) -> absl::Status {
    CPR_ASSIGN_OR_RETURN(const kvm_clock_data now, guest->vm().Clock());
    kvm_clock_data clock = {};
    clock.clock = now.clock + step_ns;
    return guest->vm().SetClock(clock);
  };
}

absl::Status StopClockOverThePause(GuestVm* guest) {
  CPR_ASSIGN_OR_RETURN(const kvm_clock_data then, guest->vm().Clock());
  const absl::Time begin = absl::Now();
  while (absl::Now() - begin < absl::Milliseconds(20)) {
  }
  kvm_clock_data clock = {};
  clock.clock = then.clock;
  return guest->vm().SetClock(clock);
}

absl::Status MaskIoapicPin4(GuestVm* guest) {
  CPR_ASSIGN_OR_RETURN(kvm_irqchip chip, guest->vm().Irqchip(KVM_IRQCHIP_IOAPIC));
  chip.chip.ioapic.redirtbl[4].fields.mask = 1;
  return guest->vm().SetIrqchip(chip);
}

// The vCPU's timer has gone off, and its interrupt has not been delivered yet. Source: Intel SDM volume
// 3, 11.4, 11.5.1.
absl::StatusOr<bool> TickIsPending(kvm::Vcpu& vcpu) {
  constexpr size_t kLvtTimer = 0x320, kIrr = 0x200;
  CPR_ASSIGN_OR_RETURN(const kvm_lapic_state lapic, vcpu.Lapic());
  const unsigned vector = static_cast<uint8_t>(lapic.regs[kLvtTimer]);
  return (static_cast<uint8_t>(lapic.regs[kIrr + vector / 32 * 16 + vector % 32 / 8]) >> vector % 8 & 1) != 0;
}

// Where the vCPU is between two deadlines there is none to lose: it sets the next one itself.
Alter LoseDeadline(uint32_t vcpu) {
  return [=](GuestVm* guest) -> absl::Status {
    if (guest->abi().vcpu[vcpu].timer_mode != CPR_GUEST_TIMER_DEADLINE)
      return absl::FailedPreconditionError("this host offers no TSC-deadline timer");
    constexpr uint32_t kTscDeadline = 0x6e0;
    for (int i = 0; i < 1000; ++i) {
      CPR_ASSIGN_OR_RETURN(std::vector<kvm_msr_entry> deadline, guest->vcpu(vcpu).Msrs({kTscDeadline}));
      const bool waits = deadline.size() == 1 && std::exchange(deadline[0].data, 0) != 0;
      if (waits) CPR_RETURN_IF_ERROR(guest->vcpu(vcpu).SetMsrs(deadline).status());
      CPR_ASSIGN_OR_RETURN(const bool pending, TickIsPending(guest->vcpu(vcpu)));
      if (waits && !pending) return absl::OkStatus();
      CPR_RETURN_IF_ERROR(RunOn(guest));
    }
    return absl::InternalError("the guest never has a deadline");
  };
}

constexpr uint64_t kHighBit = uint64_t{1} << 20;

Case XsaveCase(const char* name, uint32_t offset, uint32_t component, const char* reason) {
  Case made{name, Xsave(offset, component), CPR_GUEST_FAIL_VECTOR, reason};
  made.xsave_component = component;
  return made;
}

const Case kCases[] = {
    {"Rbx", Gpr([](kvm_regs* r) { r->rbx ^= kHighBit; }), CPR_GUEST_FAIL_GPR, "rbx: 0x"},
    {"R15", Gpr([](kvm_regs* r) { r->r15 ^= 1; }), CPR_GUEST_FAIL_GPR, "r15: 0x"},
    {"Rsp", Gpr([](kvm_regs* r) { r->rsp -= 8; }), CPR_GUEST_FAIL_GPR, "rsp: 0x"},
    {"Rip", Gpr([](kvm_regs* r) { r->rip = uint64_t{0x700000000000}; }), CPR_GUEST_FAIL_EXCEPTION, "exception 14 "},
    XsaveCase("X87", 32 + 16 * 5, 0, "st5: "),
    XsaveCase("Mxcsr", 24 + 1, 1, "MXCSR: "),
    XsaveCase("Xmm", 160 + 16 * 7, 1, "mm7 word 0: "),
    XsaveCase("Ymm", 576 + 16 * 3, 2, "mm3 word 2: "),
    XsaveCase("OpMask", 0x440 + 8 * 2, 5, "k2: "),
    XsaveCase("ZmmHigh", 0x480 + 32 * 4, 6, "zmm4 word 4: "),
    XsaveCase("Zmm16", 0x680 + 64 * 1, 7, "zmm17 word 0: "),
    {"Star", FlipMsr(0xc0000081, uint64_t{1} << 34), CPR_GUEST_FAIL_MSR, "STAR: 0x"},
    {"Lstar", FlipMsr(0xc0000082, kHighBit), CPR_GUEST_FAIL_MSR, "LSTAR: 0x"},
    {"KernelGsBase", FlipMsr(0xc0000102, kHighBit), CPR_GUEST_FAIL_MSR, "KERNEL_GS_BASE: 0x"},
    {"SysenterEsp", FlipMsr(0x175, kHighBit), CPR_GUEST_FAIL_MSR, "SYSENTER_ESP: 0x"},
    {"Pat", FlipMsr(0x277, uint64_t{2} << 40), CPR_GUEST_FAIL_MSR, "PAT: 0x"},
    {"Mtrr", FlipMsr(0x250, 6), CPR_GUEST_FAIL_MSR, "MTRR_FIX64K_00000: 0x"},
    {"Dr1", DebugRegs([](kvm_debugregs* r) { r->db[1] ^= kHighBit; }), CPR_GUEST_FAIL_DEBUG, "DR1: 0x"},
    {"Dr7", DebugRegs([](kvm_debugregs* r) { r->dr7 = 0x400; }), CPR_GUEST_FAIL_DEBUG, "DR7: 0x400, not 0xdddd04aa"},
    {"Ds", Sregs([](kvm_sregs* s) { s->ds.selector ^= 8; }), CPR_GUEST_FAIL_SEGMENT, "DS"},
    {"Gdtr", Sregs([](kvm_sregs* s) { s->gdt.limit -= 1; }), CPR_GUEST_FAIL_SEGMENT, "GDTR or IDTR limit"},
    {"Idtr", Sregs([](kvm_sregs* s) { s->idt.limit -= 1; }), CPR_GUEST_FAIL_SEGMENT, "GDTR or IDTR limit"},
    {"Cr0", Sregs([](kvm_sregs* s) { s->cr0 ^= 0x10000; }), CPR_GUEST_FAIL_CONTROL, "CR0: 0x"},
    {"Cr4", Sregs([](kvm_sregs* s) { s->cr4 ^= 0x100; }), CPR_GUEST_FAIL_CONTROL, "CR4: 0x"},
    {"Cr8", Lapic(0x80, 0x20), CPR_GUEST_FAIL_CONTROL, "CR8: 0x3, not 0x1"},
    {"ApicLint0", Lapic(0x350, 0x1), CPR_GUEST_FAIL_APIC, "APIC LVT LINT0: 0x100fd, not 0x100fc"},
    {"ApicTimerCount", Lapic(0x380, 0x1), CPR_GUEST_FAIL_APIC, "APIC timer count: ", "timer=periodic ws=1"},
    {"LostDeadline", LoseDeadline(0), CPR_GUEST_FAIL_TIMER, "no tick of the TSC-deadline timer"},
    {"LostTickOfASleeper", LoseDeadline(1), CPR_GUEST_FAIL_TIMER, "vCPU 1 does not wake", "timer=deadline idle ws=1",
     2},
    {"Tsc",
     [](GuestVm* guest) {
       guest->abi().vcpu[0].last_tsc = guest->abi().vcpu[0].last_tsc + 1000000000;
       return absl::OkStatus();
     },
     CPR_GUEST_FAIL_TSC, "TSC went back by"},
    {"ClockForward", Clock(2000000), CPR_GUEST_FAIL_CLOCK_JUMP, "kvm-clock stepped by "},
    {"ClockBack", Clock(-1000000000), CPR_GUEST_FAIL_CLOCK_BACK, "kvm-clock went back by ", "clktol=100000000"},
    {"ClockLosesTheGap", StopClockOverThePause, CPR_GUEST_FAIL_CLOCK_JUMP, "kvm-clock stepped by -"},
    {"WorkingSet", Ram([](GuestVm* g) { return g->abi().ws_gpa + 17 * 4096 + 42 * 8; }), CPR_GUEST_FAIL_WORKING_SET,
     "working set page 17 word 42 "},
    {"Touched", Ram([](GuestVm* g) { return g->abi().touched_gpa + 5 * 4096; }), CPR_GUEST_FAIL_TOUCHED,
     "touched page 0x", "ws=1 touch=1"},
    {"Irq4", MaskIoapicPin4, CPR_GUEST_FAIL_IRQ4, "no interrupt of the serial port", "irq4 ws=1", 1, true},
};

// The XSAVE components that KVM offers a guest: CPUID leaf 0xd, EAX (Intel SDM volume 1, 13.2). None without a KVM.
uint32_t OfferedXsaveComponents() {
  constexpr uint32_t kXsaveLeaf = 0xd;
  const absl::StatusOr<kvm::System> system = kvm::System::Create();
  if (!system.ok()) return 0;
  const absl::StatusOr<std::vector<kvm_cpuid_entry2>> cpuid = system->SupportedCpuid();
  if (!cpuid.ok()) return 0;
  for (const kvm_cpuid_entry2& entry : *cpuid) {
    if (entry.function == kXsaveLeaf && entry.index == 0) return entry.eax;
  }
  return 0;
}

// A test of what a guest here cannot have would pass without having looked at anything.
std::vector<Case> CasesOfThisHost() {
  const uint32_t offered = OfferedXsaveComponents();
  std::vector<Case> cases(std::begin(kCases), std::end(kCases));
  const auto missing = [offered](const Case& c) {
    return c.xsave_component > 1 && (offered >> c.xsave_component & 1) == 0;
  };
  cases.erase(std::remove_if(cases.begin(), cases.end(), missing), cases.end());
  return cases;
}

class Detect : public ::testing::TestWithParam<Case> {};

TEST_P(Detect, SaysWhatWasAltered) {
  CPR_SKIP_WITHOUT_KVM();
  const Case& c = GetParam();
  GuestVm::Options options;
  options.vcpus = c.vcpus;
  options.cmdline = c.cmdline;
  options.full_irqchip = c.full_irqchip;
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestVm> guest, GuestVm::Create(options));
  guest->Resume();
  ASSERT_THAT(guest->WaitRunning(), IsOk());
  guest->Pause();
  ASSERT_EQ(guest->abi().failure, CPR_GUEST_OK) << TextOf(guest.get());
  ASSERT_THAT(c.alter(guest.get()), IsOk());
  guest->Resume();
  ASSERT_THAT(guest->WaitFor([&] { return guest->abi().failure != CPR_GUEST_OK; }, absl::Seconds(20)), IsOk());
  EXPECT_EQ(guest->abi().failure, c.failure);
  EXPECT_THAT(TextOf(guest.get()), HasSubstr(c.reason));
  EXPECT_THAT(guest->WaitFor([&] { return guest->serial().find("FAIL") != std::string::npos; }), IsOk());
}

INSTANTIATE_TEST_SUITE_P(All, Detect, ::testing::ValuesIn(CasesOfThisHost()),
                         [](const ::testing::TestParamInfo<Case>& info) { return std::string(info.param.name); });

TEST(DetectAtBoot, WorkingSetLargerThanRam) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestVm> guest, GuestVm::Create({.cmdline = "ws=64"}));
  guest->Resume();
  ASSERT_THAT(guest->WaitRunning(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const uint32_t verdict, guest->Verify());
  EXPECT_EQ(verdict, CPR_GUEST_FAIL_BOOT);
  EXPECT_THAT(TextOf(guest.get()), HasSubstr("ws=64 MiB: RAM left is"));
}

struct DeviceCase {
  const char* name;
  FakeEdu::Fault fault;
  const char* reason;
};

void PrintTo(const DeviceCase& c, std::ostream* out) { *out << c.name; }

const DeviceCase kDeviceCases[] = {
    {"WrongByte", FakeEdu::Fault::kWrongByte, ": byte 1234 is 0x"},
    {"LostInterrupt", FakeEdu::Fault::kLostInterrupt, " is done, but no interrupt in 2"},
    {"SecondInterrupt", FakeEdu::Fault::kSecondInterrupt, ": status 0x0, not 0x100"},
    {"OtherStatus", FakeEdu::Fault::kOtherStatus, ": status 0x101, not 0x100"},
};

class DetectDevice : public ::testing::TestWithParam<DeviceCase> {};

TEST_P(DetectDevice, SaysWhatIsWrong) {
  CPR_SKIP_WITHOUT_KVM();
  FakeEdu edu(/*intx_pin=*/std::nullopt, /*has_msi=*/true);
  GuestVm::Options options = {.cmdline = "ws=1 edu=msi"};
  options.serve = [&edu](GuestVm* guest, kvm_run* run) { return edu.Serve(guest, run); };
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestVm> guest, GuestVm::Create(options));
  volatile cpr_guest_abi& abi = guest->abi();
  guest->Resume();
  ASSERT_THAT(guest->WaitFor([&] { return abi.edu_copies_verified >= 10 || abi.failure != CPR_GUEST_OK; }), IsOk());
  guest->Pause();
  ASSERT_EQ(abi.failure, CPR_GUEST_OK) << TextOf(guest.get());
  EXPECT_LE(2 * abi.edu_copies_verified, abi.edu_interrupts);
  EXPECT_LE(abi.edu_interrupts, abi.edu_dmas_asked);
  EXPECT_LE(abi.edu_dmas_asked, 2 * abi.edu_copies_asked);
  edu.set_fault(GetParam().fault);
  guest->Resume();
  ASSERT_THAT(guest->WaitFor([&] { return abi.failure != CPR_GUEST_OK; }), IsOk());
  EXPECT_EQ(abi.failure, CPR_GUEST_FAIL_DEVICE);
  EXPECT_THAT(TextOf(guest.get()), HasSubstr(GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(All, DetectDevice, ::testing::ValuesIn(kDeviceCases),
                         [](const ::testing::TestParamInfo<DeviceCase>& info) { return std::string(info.param.name); });

void FailsAtBoot(GuestVm::Options options, const char* reason) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestVm> guest, GuestVm::Create(options));
  guest->Resume();
  ASSERT_THAT(guest->WaitRunning(), IsOk());
  EXPECT_EQ(guest->abi().failure, CPR_GUEST_FAIL_DEVICE);
  EXPECT_THAT(TextOf(guest.get()), HasSubstr(reason));
}

TEST(DetectAtBoot, NoDevice) {
  CPR_SKIP_WITHOUT_KVM();
  FailsAtBoot({.cmdline = "ws=1 edu=msi"}, "no device 1234:11e8 on PCI bus 0");
}

TEST(DetectAtBoot, DeviceThatCannotInterrupt) {
  CPR_SKIP_WITHOUT_KVM();
  for (const auto& [cmdline, reason] : {std::pair("ws=1 edu=msi", "no MSI"), std::pair("ws=1 edu=17", "no INTx")}) {
    FakeEdu edu(/*intx_pin=*/std::nullopt, /*has_msi=*/false);
    GuestVm::Options options = {.cmdline = cmdline};
    options.serve = [&edu](GuestVm* guest, kvm_run* run) { return edu.Serve(guest, run); };
    FailsAtBoot(options, reason);
  }
}

}  // namespace
}  // namespace cpr::testing
