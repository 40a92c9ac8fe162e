// The VM beside its vCPUs: interrupt controllers, PIT, routes; built, saved, restored.
#include "libcpr/kvm/vm_state.h"

#include <cstring>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/system.h"
#include "libcpr/kvm/vm_state_proto.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/kvm/test_vm.h"

namespace cpr::kvm {
namespace {

using ::cpr::testing::HandOver;
using ::cpr::testing::IsOk;
using ::cpr::testing::kRamBytes;
using ::cpr::testing::MakeTestVm;
using ::cpr::testing::StatusIs;
using ::cpr::testing::TestVm;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StrEq;

constexpr uint32_t kPin = 4;
constexpr uint8_t kVector = 0x41;

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

// A PIT reports when it was loaded by the host's clock, which is another time in another VM.
kvm_pit_state2 WithoutLoadTimes(kvm_pit_state2 pit) {
  for (kvm_pit_channel_state& channel : pit.channels) channel.count_load_time = 0;
  return pit;
}

bool InIrr(const Vcpu& vcpu, uint8_t vector) {
  const auto lapic = vcpu.Lapic();
  return lapic.ok() && (lapic->regs[0x200 + 0x10 * (vector / 32) + vector % 32 / 8] & 1 << vector % 8) != 0;
}

class VmStateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    CPR_ASSERT_OK_AND_ASSIGN(System system, System::Create());
    system_.emplace(std::move(system));
    CPR_ASSERT_OK_AND_ASSIGN(ram_, Mapping::CreateAnonymous(kRamBytes));
  }
  absl::StatusOr<TestVm> Make(IrqchipKind kind) { return MakeTestVm(*system_, ram_, kind); }
  absl::StatusOr<VmState> Save(TestVm& vm) { return SaveVm(vm.vm, vm.config, vm.routes, 0); }

  // Software-enables the LAPIC, without which it takes no interrupt.
  static absl::Status EnableLapic(Vcpu& vcpu) {
    CPR_ASSIGN_OR_RETURN(kvm_lapic_state lapic, vcpu.Lapic());
    lapic.regs[0xf0] = '\xff', lapic.regs[0xf1] = 1;
    return vcpu.SetLapic(lapic);
  }

  std::optional<System> system_;
  Mapping ram_;
};

TEST_F(VmStateTest, InterruptControllersAndPitComeOver) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make(IrqchipKind::kFull));
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make(IrqchipKind::kFull));
  CPR_ASSERT_OK_AND_ASSIGN(VmState wanted, Save(from));
  wanted.irqchip->pic_master.imr = 0xfb;
  wanted.irqchip->pic_master.irq_base = 0x20;
  wanted.irqchip->pic_slave.irq_base = 0x28;
  wanted.irqchip->pic_slave.elcr = 0x0c;
  wanted.irqchip->ioapic.id = 3;
  wanted.irqchip->ioapic.ioregsel = 0x12;
  wanted.irqchip->ioapic.redirtbl[9].bits = 0x0100000000018039;
  wanted.pit->channels[0].count = 0xff34;  // 55 ms: no tick comes between restoring and saving
  wanted.pit->channels[0].mode = 2;
  wanted.pit->channels[2].gate = 1;
  ASSERT_THAT(RestoreVm(from.vm, wanted, from.config, from.routes), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const VmState saved, Save(from));
  EXPECT_EQ(Bytes(*saved.irqchip), Bytes(*wanted.irqchip));

  v1::VmX86State proto;
  ASSERT_THAT(ToProto(saved, &proto), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const VmState received, FromProto(proto));
  ASSERT_THAT(RestoreVm(to.vm, received, to.config, to.routes), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const VmState again, Save(to));
  EXPECT_EQ(Bytes(*again.irqchip), Bytes(*saved.irqchip));
  EXPECT_EQ(Bytes(WithoutLoadTimes(*again.pit)), Bytes(WithoutLoadTimes(*saved.pit)));
  EXPECT_EQ(again.pit->channels[0].count, 0xff34u);
  EXPECT_EQ(again.routes.size(), saved.routes.size());
}

TEST_F(VmStateTest, SplitHasNeitherIrqchipNorPit) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make(IrqchipKind::kSplit));
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make(IrqchipKind::kSplit));
  from.routes.SetMsi(5, 0xfee00000, kVector);
  CPR_ASSERT_OK_AND_ASSIGN(const VmState saved, Save(from));
  EXPECT_FALSE(saved.irqchip.has_value());
  EXPECT_FALSE(saved.pit.has_value());
  ASSERT_THAT(RestoreVm(to.vm, saved, to.config, to.routes), IsOk());
  EXPECT_EQ(to.routes.entries().size(), 1u);
}

// Why RestoreVm comes after RestoreVcpus: the IOAPIC passes on what is pending as it is set, and a LAPIC set after that
// would wipe it out.
TEST_F(VmStateTest, InterruptPendingInTheIoapicReachesTheRestoredLapic) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make(IrqchipKind::kFull));
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make(IrqchipKind::kFull));
  ASSERT_THAT(EnableLapic(from.vcpu()), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(VmState state, Save(from));
  state.irqchip->ioapic.redirtbl[kPin].bits = 0x8000 | kVector;  // level-triggered, not masked, to LAPIC 0
  ASSERT_THAT(RestoreVm(from.vm, state, from.config, from.routes), IsOk());
  ASSERT_THAT(HandOver(*system_, from, to), IsOk());
  EXPECT_FALSE(InIrr(to.vcpu(), kVector));

  CPR_ASSERT_OK_AND_ASSIGN(state, Save(to));
  state.irqchip->ioapic.irr = 1u << kPin;
  ASSERT_THAT(RestoreVm(to.vm, state, to.config, to.routes), IsOk());
  EXPECT_TRUE(InIrr(to.vcpu(), kVector));
}

TEST_F(VmStateTest, StateOfAnotherKindOfMachineIsRefused) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm full, Make(IrqchipKind::kFull));
  CPR_ASSERT_OK_AND_ASSIGN(TestVm split, Make(IrqchipKind::kSplit));
  CPR_ASSERT_OK_AND_ASSIGN(const VmState of_full, Save(full));
  CPR_ASSERT_OK_AND_ASSIGN(const VmState of_split, Save(split));
  EXPECT_THAT(RestoreVm(split.vm, of_full, split.config, split.routes),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("interrupt controllers")));
  EXPECT_THAT(RestoreVm(full.vm, of_split, full.config, full.routes),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("restore VM")));
}

TEST_F(VmStateTest, RefusedStepIsNamed) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm split, Make(IrqchipKind::kSplit));
  VmState state;
  state.routes.push_back({.gsi = 5000, .type = KVM_IRQ_ROUTING_MSI});
  EXPECT_THAT(
      RestoreVm(split.vm, state, split.config, split.routes),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("restore VM, step GSI_ROUTES: KVM_SET_GSI_ROUTING")));
}

TEST_F(VmStateTest, MissingCapabilitiesAreNamedWhenTheVmIsBuilt) {
  CPR_ASSERT_OK_AND_ASSIGN(Vm vm, system_->CreateVm());
  HostCaps caps = system_->caps();
  caps.exception_payload = false;
  caps.triple_fault_event = false;
  EXPECT_THAT(ConfigureVm(vm, {.exception_payload = true}, caps),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("step EXCEPTION_PAYLOAD: host KVM lacks")));
  EXPECT_THAT(ConfigureVm(vm, {.triple_fault_event = true}, caps),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("KVM_CAP_X86_TRIPLE_FAULT_EVENT")));
  EXPECT_THAT(ConfigureVm(vm, {.x2apic_api_flags = uint64_t{1} << 40}, caps),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("KVM_CAP_X2APIC_API flags 0x10000000000")));
}

TEST_F(VmStateTest, EverythingThatCanBeEnabledTogetherIs) {
  for (const IrqchipKind kind : {IrqchipKind::kSplit, IrqchipKind::kFull}) {
    CPR_ASSERT_OK_AND_ASSIGN(Vm vm, system_->CreateVm());
    const VmConfig config = {.irqchip = kind,
                             .pit = kind == IrqchipKind::kFull,
                             .pit_flags = KVM_PIT_SPEAKER_DUMMY,
                             .x2apic_api_flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
                             .boot_vcpu_id = 1,
                             .exception_payload = system_->caps().exception_payload,
                             .triple_fault_event = system_->caps().triple_fault_event};
    EXPECT_THAT(ConfigureVm(vm, config, system_->caps()), IsOk());
    EXPECT_THAT(vm.CreateVcpu(1), IsOk());
  }
}

TEST_F(VmStateTest, RoutesAreSetOnlyWhenTheyChanged) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, Make(IrqchipKind::kSplit));
  vm.routes.SetMsi(3, 0xfee00000, 1);
  vm.routes.SetMsi(3, 0xfee00000, 2);
  ASSERT_EQ(vm.routes.entries().size(), 1u);
  EXPECT_EQ(vm.routes.entries()[0].u.msi.data, 2u);
  EXPECT_THAT(vm.routes.Commit(vm.vm), IsOk());
  // Nothing to do, so a VM that would refuse is not asked.
  Vm closed = Vm::Adopt(UniqueFd(), 0);
  EXPECT_THAT(vm.routes.Commit(closed), IsOk());
  vm.routes.Clear(3);
  EXPECT_FALSE(vm.routes.Commit(closed).ok());
}

TEST(VmRestoreOrderTest, PitTicksIntoControllersAndRoutesThatStand) {
  EXPECT_THAT(VmRestoreSteps(), ElementsAre(StrEq("PIC_MASTER"), StrEq("PIC_SLAVE"), StrEq("IOAPIC"),
                                            StrEq("GSI_ROUTES"), StrEq("PIT2")));
}

}  // namespace
}  // namespace cpr::kvm
