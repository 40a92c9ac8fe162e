// A vCPU whose every item was changed, saved and restored into a fresh VM, is the same item by item.
#include "libcpr/kvm/vcpu_state.h"

#include <cstring>
#include <map>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/msrs.h"
#include "libcpr/kvm/parallel.h"
#include "libcpr/kvm/vcpu_state_proto.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/kvm/test_vm.h"

namespace cpr::kvm {
namespace {

using ::cpr::testing::HonoursTscOffset;
using ::cpr::testing::IsOk;
using ::cpr::testing::kRamBytes;
using ::cpr::testing::MakeTestVm;
using ::cpr::testing::StatusIs;
using ::cpr::testing::TestVm;
using ::testing::HasSubstr;

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::map<uint32_t, uint64_t> ByIndex(const std::vector<kvm_msr_entry>& msrs) {
  std::map<uint32_t, uint64_t> map;
  for (const kvm_msr_entry& msr : msrs) map[msr.index] = msr.data;
  return map;
}

constexpr uint32_t kMsrHvRuntime = 0x40000010;

void ExpectSameMsrs(const std::vector<kvm_msr_entry>& a, const std::vector<kvm_msr_entry>& b) {
  EXPECT_EQ(a.size(), b.size());
  std::map<uint32_t, uint64_t> others = ByIndex(b);
  for (const auto& [index, data] : ByIndex(a)) {
    if (index == kMsrHvRuntime) continue;  // a clock: it goes on from what was set
    EXPECT_EQ(data, others[index]) << "MSR 0x" << std::hex << index;
  }
}

// Every item, one by one, so that a failure names what was lost.
void ExpectSame(const VcpuState& a, const VcpuState& b) {
  EXPECT_EQ(a.mp_state.mp_state, b.mp_state.mp_state);
  EXPECT_EQ(Bytes(a.regs), Bytes(b.regs));
  EXPECT_EQ(Bytes(a.sregs), Bytes(b.sregs));
  EXPECT_EQ(a.xsave, b.xsave);
  EXPECT_EQ(Bytes(a.xcrs), Bytes(b.xcrs));
  EXPECT_EQ(Bytes(a.debugregs), Bytes(b.debugregs));
  ASSERT_EQ(a.lapic.has_value(), b.lapic.has_value());
  EXPECT_EQ(Bytes(a.lapic.value_or(kvm_lapic_state{})), Bytes(b.lapic.value_or(kvm_lapic_state{})));
  ExpectSameMsrs(a.msrs, b.msrs);
  EXPECT_EQ(Bytes(a.events), Bytes(b.events));
  EXPECT_EQ(a.nested_state, b.nested_state);
  EXPECT_EQ(a.tsc_offset, b.tsc_offset);
}

class VcpuStateTest : public ::testing::TestWithParam<IrqchipKind> {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    CPR_ASSERT_OK_AND_ASSIGN(System system, System::Create());
    system_.emplace(std::move(system));
    CPR_ASSERT_OK_AND_ASSIGN(ram_, Mapping::CreateAnonymous(kRamBytes));
  }

  absl::StatusOr<TestVm> Make(uint32_t vcpus = 1) { return MakeTestVm(*system_, ram_, GetParam(), vcpus); }

  std::optional<System> system_;
  Mapping ram_;
};

INSTANTIATE_TEST_SUITE_P(Irqchips, VcpuStateTest,
                         ::testing::Values(IrqchipKind::kSplit, IrqchipKind::kFull, IrqchipKind::kNone),
                         [](const auto& info) {
                           return std::string(info.param == IrqchipKind::kSplit  ? "Split"
                                              : info.param == IrqchipKind::kFull ? "Full"
                                                                                 : "None");
                         });

TEST_P(VcpuStateTest, FreshVcpuComesOverAsItIs) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make());
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make());
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuSavePlan plan, PlanVcpuSave(*system_, from.vcpu()));
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState saved, SaveVcpu(from.vcpu(), plan));
  ASSERT_THAT(RestoreVcpu(to.vcpu(), saved, system_->caps()), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState again, SaveVcpu(to.vcpu(), plan));
  ExpectSame(saved, again);
  EXPECT_EQ(saved.lapic.has_value(), GetParam() != IrqchipKind::kNone);
}

// Changes every item of `vcpu` to something that a fresh vCPU is not at, and that KVM takes as it is.
absl::StatusOr<VcpuState> Modify(Vcpu& vcpu, const VcpuSavePlan& plan) {
  CPR_ASSIGN_OR_RETURN(VcpuState state, SaveVcpu(vcpu, plan));
  state.regs = {.rax = 0x1122334455667788,
                .rbx = 2,
                .rcx = 3,
                .rdx = 4,
                .rsi = 5,
                .rdi = 6,
                .rsp = 0x7000,
                .rbp = 8,
                .r8 = 9,
                .r9 = 10,
                .r10 = 11,
                .r11 = 12,
                .r12 = 13,
                .r13 = 14,
                .r14 = 15,
                .r15 = 16,
                .rip = 0x1000,
                .rflags = 0x246};
  state.sregs.fs.base = 0x12340;
  state.sregs.fs.selector = 0x1234;
  state.sregs.gdt = {.base = 0x6000, .limit = 0x7f};
  state.sregs.idt = {.base = 0x5000, .limit = 0x3ff};
  state.sregs.cr2 = 0xdeadb000;
  if (plan.lapic) state.sregs.cr8 = 0;
  if ((plan.caps.xsave_features & 4) != 0) {
    state.sregs.cr4 |= 1 << 18;  // OSXSAVE
    state.xcrs.xcrs[0].value = 7;
    state.xsave[512] = 7;
    state.xsave[576 + 3] = 0xab;  // YMM0, upper half
  }
  state.xsave[512] |= 3;
  state.xsave[32] = 0x77;   // ST0
  state.xsave[160] = 0x99;  // XMM0
  state.debugregs.db[0] = 0x1000;
  state.debugregs.dr7 = 0x402;
  if (plan.lapic) {
    state.mp_state.mp_state = KVM_MP_STATE_HALTED;
    state.lapic->regs[0xf0] = '\xff', state.lapic->regs[0xf1] = 1;  // SVR: enabled, vector 0xff
    state.lapic->regs[0x320] = 0x31, state.lapic->regs[0x322] = 4;  // LVTT: deadline mode, vector 0x31
  }
  const std::map<uint32_t, uint64_t> values = {{0x174, 8},
                                               {0x175, 0x7000},
                                               {0x176, 0x81000000},  // AMD's has 32 bits
                                               {0xc0000081, 0x23001000000000},
                                               {0xc0000082, 0xffffffff81a00000},
                                               {0xc0000084, 0x47700},
                                               {0xc0000102, 0xffff888000000000},
                                               {0x277, 0x0407050600070106},
                                               {0x2ff, 0xc06},
                                               {0x250, 0x0606060606060606},
                                               {0x200, 0x80000000},
                                               {MSR_KVM_SYSTEM_TIME_NEW, 0x9001},
                                               {MSR_KVM_STEAL_TIME, 0x9041}};
  for (kvm_msr_entry& msr : state.msrs) {
    if (const auto value = values.find(msr.index); value != values.end()) msr.data = value->second;
    if (msr.index == kMsrTscDeadline && plan.lapic) msr.data = uint64_t{1} << 60;
  }
  state.events.nmi.masked = 1;
  state.events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
  state.events.exception = {.injected = 1, .nr = 13, .has_error_code = 1, .pending = 0, .error_code = 0x18};
  if (HonoursTscOffset(vcpu)) state.tsc_offset -= 123'456'789;
  return state;
}

TEST_P(VcpuStateTest, EveryChangedItemComesOver) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make());
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make());
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuSavePlan plan, PlanVcpuSave(*system_, from.vcpu()));
  CPR_ASSERT_OK_AND_ASSIGN(VcpuState wanted, Modify(from.vcpu(), plan));
  ASSERT_THAT(RestoreVcpu(from.vcpu(), wanted, system_->caps()), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState saved, SaveVcpu(from.vcpu(), plan));
  // AMD has one shadow for both of Intel's.
  wanted.events.interrupt.shadow |= saved.events.interrupt.shadow;
  ExpectSame(wanted, saved);
  ASSERT_THAT(RestoreVcpu(to.vcpu(), saved, system_->caps()), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState again, SaveVcpu(to.vcpu(), plan));
  ExpectSame(saved, again);
}

TEST_P(VcpuStateTest, SavingTwiceGivesTheSame) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make());
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuSavePlan plan, PlanVcpuSave(*system_, from.vcpu()));
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState first, SaveVcpu(from.vcpu(), plan));
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState second, SaveVcpu(from.vcpu(), plan));
  ExpectSame(first, second);
}

TEST_P(VcpuStateTest, SregsWithoutPdptrsGoToAHostWithSregs2AndBack) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make());
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make());
  CPR_ASSERT_OK_AND_ASSIGN(VcpuSavePlan plan, PlanVcpuSave(*system_, from.vcpu()));
  HostCaps old_caps = plan.caps;
  old_caps.sregs2 = false;
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState saved, SaveVcpu(from.vcpu(), plan));
  ASSERT_THAT(RestoreVcpu(to.vcpu(), saved, old_caps), IsOk());
  plan.caps = old_caps;
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState again, SaveVcpu(to.vcpu(), plan));
  ExpectSame(saved, again);
}

TEST_P(VcpuStateTest, ThroughTheWireItIsTheSame) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make());
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuSavePlan plan, PlanVcpuSave(*system_, from.vcpu()));
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState saved, SaveVcpu(from.vcpu(), plan));
  v1::VcpuX86State proto;
  ToProto(saved, &proto);
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState received, FromProto(proto));
  ExpectSame(saved, received);
  v1::VcpuX86Config config_proto;
  ToProto(from.vcpu_config, &config_proto);
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuConfig config, FromProto(config_proto));
  EXPECT_EQ(config.cpuid.size(), from.vcpu_config.cpuid.size());
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make());
  EXPECT_THAT(ConfigureVcpu(to.vcpu(), config, system_->caps()), IsOk());
}

TEST_P(VcpuStateTest, ManyVcpusInParallel) {
  constexpr uint32_t kVcpus = 4;
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make(kVcpus));
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make(kVcpus));
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuSavePlan plan, PlanVcpuSave(*system_, from.vcpu()));
  const VcpuExecutor threads = [](size_t count, absl::FunctionRef<void(size_t)> task) {
    std::vector<std::thread> running;
    for (size_t i = 0; i < count; ++i) running.emplace_back([&task, i] { task(i); });
    for (std::thread& thread : running) thread.join();
  };
  for (size_t i = 0; i < kVcpus; ++i) ASSERT_THAT(from.vcpu(i).SetRegs({.rax = i + 100, .rflags = 2}), IsOk());
  const auto all = from.All();
  CPR_ASSERT_OK_AND_ASSIGN(std::vector<VcpuState> states, SaveVcpus({all.data(), all.size()}, plan, threads));
  ASSERT_EQ(states.size(), kVcpus);
  ASSERT_THAT(RestoreVcpus(to.All(), states, system_->caps(), threads), IsOk());
  for (size_t i = 0; i < kVcpus; ++i) {
    CPR_ASSERT_OK_AND_ASSIGN(const VcpuState again, SaveVcpu(to.vcpu(i), plan));
    EXPECT_EQ(again.regs.rax, i + 100);
    ExpectSame(states[i], again);
  }
  std::swap(states[1], states[2]);
  EXPECT_THAT(RestoreVcpus(to.All(), states, system_->caps()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("state of vCPU 2 for vCPU 1")));
  states.pop_back();
  EXPECT_THAT(RestoreVcpus(to.All(), states, system_->caps()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("state of 3 vCPUs for a VM of 4")));
}

// What goes wrong names the vCPU, the step and the thing.
class VcpuStateErrorTest : public VcpuStateTest {
 protected:
  void SetUp() override {
    VcpuStateTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    CPR_ASSERT_OK_AND_ASSIGN(vm_, Make());
    CPR_ASSERT_OK_AND_ASSIGN(const VcpuSavePlan plan, PlanVcpuSave(*system_, vm_->vcpu()));
    CPR_ASSERT_OK_AND_ASSIGN(state_, SaveVcpu(vm_->vcpu(), plan));
  }
  absl::Status Restore() { return RestoreVcpu(vm_->vcpu(), state_, system_->caps()); }

  std::optional<TestVm> vm_;
  VcpuState state_;
};

INSTANTIATE_TEST_SUITE_P(Split, VcpuStateErrorTest, ::testing::Values(IrqchipKind::kSplit));

TEST_P(VcpuStateErrorTest, RefusedMsrIsNamed) {
  state_.msrs.insert(state_.msrs.begin(), {.index = 0xdeadbeef, .data = 0x42});
  EXPECT_THAT(Restore(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                  HasSubstr("restore vcpu 0, step MSRS: KVM_SET_MSRS vcpu 0: this host refuses MSR "
                                            "0xdeadbeef = 0x42")));
}

TEST_P(VcpuStateErrorTest, RefusedZeroIsPassedOver) {
  state_.msrs.insert(state_.msrs.begin(), {.index = 0xdeadbeef, .data = 0});
  for (kvm_msr_entry& msr : state_.msrs) {
    if (msr.index == 0xc0000082) msr.data = 0xffffffff81000000;
  }
  ASSERT_THAT(Restore(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const auto lstar, vm_->vcpu().Msrs({0xc0000082}));
  EXPECT_EQ(lstar.at(0).data, 0xffffffff81000000) << "what comes after the refused one was not written";
}

TEST_P(VcpuStateErrorTest, UnreadableMsrsAreLeftOutOfTheState) {
  CPR_ASSERT_OK_AND_ASSIGN(const auto msrs,
                           SaveMsrs(vm_->vcpu(), {0xdeadbeef, 0xc0000082, 0xdeadbee0, 0xdeadbee1, 0x277}));
  ASSERT_EQ(msrs.size(), 2u);
  EXPECT_EQ(msrs[0].index, 0xc0000082);
  EXPECT_EQ(msrs[1].index, 0x277u);
}

TEST_P(VcpuStateErrorTest, TscIsNeverWrittenAsMsr) {
  for (const kvm_msr_entry& msr : state_.msrs) EXPECT_NE(msr.index, kMsrTsc);
  EXPECT_EQ(state_.msrs.back().index, kMsrTscDeadline);
  state_.msrs.push_back({.index = kMsrTsc, .data = 1});
  EXPECT_THAT(Restore(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("TSC")));
}

TEST_P(VcpuStateErrorTest, WhatCannotBeSetIsNoState) {
  constexpr uint32_t kMsrHvTimeRefCount = 0x40000020;
  for (const kvm_msr_entry& msr : state_.msrs) EXPECT_NE(msr.index, kMsrHvTimeRefCount);
}

TEST_P(VcpuStateErrorTest, ImpossibleControlRegisterIsNamedByItsStep) {
  state_.sregs.cr4 = ~uint64_t{0};
  EXPECT_THAT(Restore(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("step SREGS2: KVM_SET_SREGS")));
}

TEST_P(VcpuStateErrorTest, MissingXsaveFeatureIsFoundBeforeAnythingIsTouched) {
  state_.xsave[519] = 0x40;  // XSTATE_BV bit 62
  state_.regs.rax = 0x5151;
  EXPECT_THAT(Restore(), StatusIs(absl::StatusCode::kUnimplemented,
                                  HasSubstr("restore vcpu 0: host lacks XSAVE features 0x4000")));
  EXPECT_NE(vm_->vcpu().Regs()->rax, 0x5151u);
}

TEST_P(VcpuStateErrorTest, ShortXsaveIsRefused) {
  state_.xsave.resize(100);
  EXPECT_THAT(Restore(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("xsave has 100 bytes")));
}

TEST_P(VcpuStateErrorTest, LargerXsaveAreaOfTheOldHostIsTaken) {
  state_.xsave.resize(11008);  // as with AMX, unused
  EXPECT_THAT(Restore(), IsOk());
}

TEST_P(VcpuStateErrorTest, NestedStateNeedsTheCapability) {
  HostCaps caps = system_->caps();
  caps.nested_state_size_bytes = 0;
  state_.nested_state.resize(sizeof(kvm_nested_state));
  EXPECT_THAT(RestoreVcpu(vm_->vcpu(), state_, caps),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("host KVM lacks KVM_CAP_NESTED_STATE")));
}

TEST_P(VcpuStateErrorTest, TscOffsetIsHonouredOrAnError) {
  const bool honoured = HonoursTscOffset(vm_->vcpu());
  state_.tsc_offset += 1;
  if (honoured) {
    EXPECT_THAT(Restore(), IsOk());
  } else {
    EXPECT_THAT(Restore(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("step TSC_OFFSET: host KVM ignores")));
  }
}

TEST_P(VcpuStateErrorTest, OtherTscFrequencyNeedsTheCapability) {
  ASSERT_TRUE(vm_->vcpu_config.tsc_khz.has_value());
  HostCaps caps = system_->caps();
  caps.tsc_control = false;
  VcpuConfig config = vm_->vcpu_config;
  config.tsc_khz = *config.tsc_khz + 1;  // another calibration of the same clock
  EXPECT_THAT(ConfigureVcpu(vm_->vcpu(), config, caps), IsOk());
  config.tsc_khz = *config.tsc_khz * 2;
  EXPECT_THAT(ConfigureVcpu(vm_->vcpu(), config, caps),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("host KVM lacks KVM_CAP_TSC_CONTROL")));
}

size_t Position(const std::string& step) {
  const auto steps = VcpuRestoreSteps();
  for (size_t i = 0; i < steps.size(); ++i) {
    if (steps[i] == step) return i;
  }
  ADD_FAILURE() << "no step " << step;
  return 0;
}

// Each pair was once shipped the other way round by somebody: dead APIC timers, stuck guests, lost exceptions.
TEST(VcpuRestoreOrderTest, KeepsTheHardRules) {
  EXPECT_LT(Position("SREGS2"), Position("LAPIC"));
  EXPECT_LT(Position("LAPIC"), Position("MSRS"));
  EXPECT_LT(Position("TSC_OFFSET"), Position("MSRS"));
  EXPECT_LT(Position("SREGS2"), Position("NESTED_STATE"));
  EXPECT_LT(Position("MSRS"), Position("NESTED_STATE"));
  EXPECT_LT(Position("NESTED_STATE"), Position("REGS"));
  EXPECT_LT(Position("SREGS2"), Position("MP_STATE"));
  EXPECT_LT(Position("REGS"), Position("VCPU_EVENTS"));
}

}  // namespace
}  // namespace cpr::kvm
