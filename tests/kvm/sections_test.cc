// A guest's KVM part goes over as sections, all at once or not at all.
#include "libcpr/kvm/sections.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vmstate/container.h"
#include "tests/kvm/test_vm.h"

namespace cpr::kvm {
namespace {

using ::cpr::testing::HonoursTscOffset;
using ::cpr::testing::IsOk;
using ::cpr::testing::kRamBytes;
using ::cpr::testing::MakeTestVm;
using ::cpr::testing::RunToPort;
using ::cpr::testing::StatusIs;
using ::cpr::testing::TestVm;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint8_t kCountAx[] = {0x40, 0xe7, 0x80, 0xeb, 0xfb};  // again: inc ax; out 0x80, ax; jmp again

class SectionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    CPR_ASSERT_OK_AND_ASSIGN(System system, System::Create());
    system_.emplace(std::move(system));
    CPR_ASSERT_OK_AND_ASSIGN(ram_, Mapping::CreateAnonymous(kRamBytes));
    CPR_ASSERT_OK_AND_ASSIGN(config_.host_boot_id, HostBootId());
  }

  absl::StatusOr<TestVm> Make() {
    CPR_ASSIGN_OR_RETURN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kSplit, /*vcpu_count=*/2));
    config_.vm = vm.config;
    config_.vcpus = {vm.vcpu_config, vm.vcpu_config};
    return vm;
  }

  GuestParts PartsOf(TestVm& vm) {
    return {.system = &*system_, .vm = &vm.vm, .vcpus = vm.All(), .routes = &vm.routes, .config = &config_};
  }

  absl::StatusOr<std::string> Save(TestVm& vm) {
    CPR_ASSIGN_OR_RETURN(VcpuSavePlan plan, PlanVcpuSave(*system_, vm.vcpu()));
    SectionRegistry sections;
    CPR_RETURN_IF_ERROR(AddStateSections(PartsOf(vm), std::move(plan), sections));
    std::string bytes;
    ContainerWriter writer(&bytes);
    CPR_RETURN_IF_ERROR(SaveSections(sections, Stage::kLate, writer));
    CPR_RETURN_IF_ERROR(writer.Finish());
    return bytes;
  }

  absl::Status Restore(const std::string& bytes, TestVm& vm) { return Restore(bytes, PartsOf(vm)); }

  static absl::Status Restore(const std::string& bytes, GuestParts parts) {
    CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(bytes));
    SectionRegistry sections;
    CPR_RETURN_IF_ERROR(AddStateSections(std::move(parts), /*plan=*/{}, sections));
    CPR_RETURN_IF_ERROR(LoadSections(sections, Stage::kLate, reader));
    return ApplySections(sections, Stage::kLate);
  }

  // Restores into a VM whose clock is set an hour ahead while the vCPUs are restored; how far ahead it is at the end.
  absl::StatusOr<absl::Duration> ClockErrorAfterRestore() {
    CPR_ASSIGN_OR_RETURN(TestVm from, Make());
    CPR_RETURN_IF_ERROR(testing::LoadRealModeCode(from.vcpu(), ram_, kCountAx));
    CPR_ASSIGN_OR_RETURN(const std::string bytes, Save(from));
    CPR_ASSIGN_OR_RETURN(TestVm to, Make());
    GuestParts parts = PartsOf(to);
    absl::Status set;
    parts.run = [&](size_t count, absl::FunctionRef<void(size_t)> task) {
      kvm_clock_data ahead = {};
      ahead.clock = static_cast<uint64_t>(absl::ToInt64Nanoseconds(absl::Hours(1)));
      set = to.vm.SetClock(ahead);
      RunInCaller(count, task);
    };
    CPR_RETURN_IF_ERROR(Restore(bytes, std::move(parts)));
    CPR_RETURN_IF_ERROR(set);
    CPR_ASSIGN_OR_RETURN(const kvm_clock_data old_clock, from.vm.Clock());
    CPR_ASSIGN_OR_RETURN(const kvm_clock_data new_clock, to.vm.Clock());
    return absl::Nanoseconds(static_cast<int64_t>(new_clock.clock - old_clock.clock));
  }

  std::optional<System> system_;
  Mapping ram_;
  GuestConfig config_;
};

// Until a vCPU runs, kvm-clock goes by CLOCK_MONOTONIC_RAW, which may be parts in 10000 faster or slower than the TSC
// as KVM knows it: what passes between the two is an error of the guest's clock.
TEST_F(SectionsTest, TheClockIsSetAfterTheVcpus) {
  CPR_ASSERT_OK_AND_ASSIGN(const absl::Duration ahead, ClockErrorAfterRestore());
  EXPECT_LT(absl::AbsDuration(ahead), absl::Minutes(1));
}

TEST_F(SectionsTest, TheClockIsSetAfterTheVcpusUnderANewKernel) {
  config_.host_boot_id = "of another boot";
  const absl::StatusOr<absl::Duration> ahead = ClockErrorAfterRestore();
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, Make());
  if (!HonoursTscOffset(vm.vcpu())) {  // then no guest can go to a new kernel
    EXPECT_THAT(ahead.status(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("KVM_VCPU_TSC_OFFSET")));
    return;
  }
  ASSERT_THAT(ahead.status(), IsOk());
  EXPECT_LT(absl::AbsDuration(*ahead), absl::Minutes(1));
}

TEST_F(SectionsTest, TheGuestGoesOnInTheNewVm) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make());
  ASSERT_THAT(testing::LoadRealModeCode(from.vcpu(), ram_, kCountAx), IsOk());
  for (uint32_t count = 1; count <= 3; ++count) {
    CPR_ASSERT_OK_AND_ASSIGN(const uint32_t seen, RunToPort(from.vcpu(), 0x80));
    ASSERT_EQ(seen, count);
  }
  ASSERT_THAT(testing::CompletePendingIo(from.vcpu()), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(kvm_regs regs, from.vcpu(1).Regs());
  regs.rbx = 0x1234;
  ASSERT_THAT(from.vcpu(1).SetRegs(regs), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const std::string bytes, Save(from));

  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make());
  ASSERT_THAT(Restore(bytes, to), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const uint32_t next, RunToPort(to.vcpu(), 0x80));
  EXPECT_EQ(next, 4u);
  CPR_ASSERT_OK_AND_ASSIGN(const kvm_regs moved, to.vcpu(1).Regs());
  EXPECT_EQ(moved.rbx, 0x1234u);
}

TEST_F(SectionsTest, AStateOfOtherVcpusIsRefusedBeforeAnythingIsTouched) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, Make());
  ASSERT_THAT(testing::LoadRealModeCode(from.vcpu(), ram_, kCountAx), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const std::string bytes, Save(from));
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, Make());
  to.vcpus.pop_back();
  EXPECT_THAT(Restore(bytes, to), Not(IsOk()));
  CPR_ASSERT_OK_AND_ASSIGN(const kvm_regs regs, to.vcpu().Regs());
  EXPECT_NE(regs.rip, testing::kCodeGpa);
}

}  // namespace
}  // namespace cpr::kvm
