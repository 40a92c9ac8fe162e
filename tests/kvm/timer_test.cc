// The LAPIC timer goes on ticking over a handover, whatever it was at. Each case was a bug that somebody shipped.
#include <x86intrin.h>

#include <cstring>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/msrs.h"
#include "libcpr/kvm/system.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/kvm/test_vm.h"

namespace cpr::kvm {
namespace {

using ::cpr::testing::HandOver;
using ::cpr::testing::IsOk;
using ::cpr::testing::kRamBytes;
using ::cpr::testing::LoadRealModeCode;
using ::cpr::testing::MakeTestVm;
using ::cpr::testing::RunToPort;
using ::cpr::testing::TestVm;

constexpr uint8_t kVector = 0x31;
constexpr uint16_t kPort = 0x80;
constexpr uint64_t kHandlerGpa = 0x1100;
constexpr uint32_t kLvtOneShot = kVector, kLvtPeriodic = 0x20000 | kVector, kLvtDeadline = 0x40000 | kVector;
constexpr size_t kLvtt = 0x320, kTmict = 0x380, kTmcct = 0x390, kTdcr = 0x3e0, kSvr = 0xf0, kIrr = 0x200;

// Says R when it has counted with interrupts off, then waits for ticks with them on, and says F if none comes before
// the TSC's upper half has changed twice: some 3 s.
constexpr uint8_t kWaiter[] = {
    0xfa,                                // cli
    0x66, 0xb9, 0x00, 0x10, 0x00, 0x00,  // mov ecx, 0x1000
    0x66, 0x49, 0x75, 0xfc,              // 1: dec ecx; jnz 1b
    0xb0, 'R',  0xe6, 0x80,              // mov al, 'R'; out 0x80, al
    0x0f, 0x31, 0x66, 0x89, 0xd3,        // rdtsc; mov ebx, edx
    0x66, 0x83, 0xc3, 0x02,              // add ebx, 2
    0xfb,                                // sti
    0x0f, 0x31, 0x66, 0x39, 0xda,        // 2: rdtsc; cmp edx, ebx
    0x72, 0xf9,                          // jb 2b
    0xb0, 'F',  0xe6, 0x80, 0xf4,        // mov al, 'F'; out 0x80, al; hlt
};
// Says T and ends the interrupt by x2APIC's EOI register.
constexpr uint8_t kHandler[] = {
    0x66, 0x50, 0x66, 0x51, 0x66, 0x52,  // push eax; push ecx; push edx
    0xb0, 'T',  0xe6, 0x80,              // mov al, 'T'; out 0x80, al
    0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00,  // mov ecx, 0x80b
    0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2,  // xor eax, eax; xor edx, edx
    0x0f, 0x30,                          // wrmsr
    0x66, 0x5a, 0x66, 0x59, 0x66, 0x58,  // pop edx; pop ecx; pop eax
    0xcf,                                // iret
};

void SetReg(kvm_lapic_state& lapic, size_t offset, uint32_t value) {
  std::memcpy(lapic.regs + offset, &value, sizeof(value));
}

class TimerTest : public ::testing::TestWithParam<IrqchipKind> {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    CPR_ASSERT_OK_AND_ASSIGN(System system, System::Create());
    system_.emplace(std::move(system));
    CPR_ASSERT_OK_AND_ASSIGN(ram_, Mapping::CreateAnonymous(kRamBytes));
    CPR_ASSERT_OK_AND_ASSIGN(from_, MakeTestVm(*system_, ram_, GetParam()));
    CPR_ASSERT_OK_AND_ASSIGN(to_, MakeTestVm(*system_, ram_, GetParam()));
    std::memcpy(ram_.data() + kHandlerGpa, kHandler, sizeof(kHandler));
    ram_.data()[4 * kVector + 1] = kHandlerGpa >> 8;
    ASSERT_THAT(LoadRealModeCode(from_->vcpu(), ram_, kWaiter), IsOk());
  }

  // x2APIC on, its timer in the mode of `lvtt` with `count` of 1 ns each.
  absl::Status SetTimer(uint32_t lvtt, uint32_t count) {
    Vcpu& vcpu = from_->vcpu();
    CPR_ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu.Sregs());
    sregs.apic_base = 0xfee00d00;
    CPR_RETURN_IF_ERROR(vcpu.SetSregs(sregs));
    CPR_ASSIGN_OR_RETURN(kvm_lapic_state lapic, vcpu.Lapic());
    SetReg(lapic, kSvr, 0x1ff);
    SetReg(lapic, kTdcr, 0xb);
    SetReg(lapic, kLvtt, lvtt);
    SetReg(lapic, kTmict, count);
    SetReg(lapic, kTmcct, count);
    return vcpu.SetLapic(lapic);
  }

  absl::Status SetDeadline(uint64_t guest_tsc) {
    CPR_ASSIGN_OR_RETURN(const size_t written, from_->vcpu().SetMsrs({{.index = kMsrTscDeadline, .data = guest_tsc}}));
    return written == 1 ? absl::OkStatus() : absl::InternalError("deadline refused");
  }

  uint64_t GuestTsc() { return __rdtsc() + from_->vcpu().TscOffset().value(); }
  uint64_t Deadline() { return from_->vcpu().Msrs({kMsrTscDeadline})->at(0).data; }
  uint64_t Us(uint64_t us) { return us * from_->vcpu_config.tsc_khz.value() / 1000; }
  bool Pending(const Vcpu& vcpu) {
    return (vcpu.Lapic()->regs[kIrr + 0x10 * (kVector / 32) + kVector % 32 / 8] & 1 << kVector % 8) != 0;
  }

  // Runs the old VM until it has counted.
  void ExpectReady() { ASSERT_EQ(*RunToPort(from_->vcpu(), kPort), 'R'); }
  void ExpectTicksAfterHandover(int ticks) {
    ASSERT_THAT(HandOver(*system_, *from_, *to_), IsOk());
    for (int i = 0; i < ticks; ++i) {
      CPR_ASSERT_OK_AND_ASSIGN(const uint32_t said, RunToPort(to_->vcpu(), kPort));
      ASSERT_EQ(static_cast<char>(said), 'T') << "tick " << i << " was lost";
    }
  }

  std::optional<System> system_;
  Mapping ram_;
  std::optional<TestVm> from_, to_;
};

INSTANTIATE_TEST_SUITE_P(Irqchips, TimerTest, ::testing::Values(IrqchipKind::kSplit, IrqchipKind::kFull),
                         [](const auto& info) {
                           return std::string(info.param == IrqchipKind::kSplit ? "Split" : "Full");
                         });

TEST_P(TimerTest, DeadlineAheadTicksInTheNewVm) {
  ASSERT_THAT(SetTimer(kLvtDeadline, 0), IsOk());
  ExpectReady();
  ASSERT_THAT(SetDeadline(GuestTsc() + Us(5000)), IsOk());
  ExpectTicksAfterHandover(1);
}

// The timer fired while the vCPU was stopped: nothing was injected, the deadline in the past says so.
TEST_P(TimerTest, DeadlineThatPassesInThePauseTicksInTheNewVm) {
  ASSERT_THAT(SetTimer(kLvtDeadline, 0), IsOk());
  ExpectReady();
  const uint64_t deadline = GuestTsc() + Us(200);
  ASSERT_THAT(SetDeadline(deadline), IsOk());
  while (GuestTsc() < deadline + Us(200)) {
  }
  ExpectTicksAfterHandover(1);
}

// The tick is in the IRR and the deadline is 0: writing that 0 must not take it back.
TEST_P(TimerTest, TickThatIsPendingIsNotLostToAZeroDeadline) {
  ASSERT_THAT(SetTimer(kLvtDeadline, 0), IsOk());
  ASSERT_THAT(SetDeadline(GuestTsc()), IsOk());
  ExpectReady();
  ASSERT_EQ(Deadline(), 0u);
  ASSERT_TRUE(Pending(from_->vcpu()));
  ExpectTicksAfterHandover(1);
}

TEST_P(TimerTest, DeadlineSurvivesBeingRestoredBeforeItsTime) {
  ASSERT_THAT(SetTimer(kLvtDeadline, 0), IsOk());
  ExpectReady();
  const uint64_t deadline = GuestTsc() + Us(3'600'000'000);
  ASSERT_THAT(SetDeadline(deadline), IsOk());
  ASSERT_THAT(HandOver(*system_, *from_, *to_), IsOk());
  EXPECT_EQ(to_->vcpu().Msrs({kMsrTscDeadline})->at(0).data, deadline) << "MSRs were written before the LAPIC";
}

TEST_P(TimerTest, OneShotTicksInTheNewVm) {
  ASSERT_THAT(SetTimer(kLvtOneShot, 50'000'000), IsOk());
  ExpectReady();
  ExpectTicksAfterHandover(1);
}

TEST_P(TimerTest, PeriodicGoesOnTicking) {
  ASSERT_THAT(SetTimer(kLvtPeriodic, 2'000'000), IsOk());
  ExpectReady();
  ExpectTicksAfterHandover(3);
}

}  // namespace
}  // namespace cpr::kvm
