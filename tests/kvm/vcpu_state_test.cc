// A vCPU whose every item was changed, saved and restored into a fresh VM, is the same item by item.
#include "libcpr/kvm/vcpu_state.h"

#include <cstring>
#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/kvm/msrs.h"
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
using ::testing::AllOf;
using ::testing::ElementsAreArray;
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
  EXPECT_EQ(ByIndex(a.msrs), ByIndex(b.msrs));
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

}  // namespace
}  // namespace cpr::kvm
