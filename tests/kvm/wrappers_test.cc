// The thin wrappers on the real KVM: what the ioctls do, what their errors say, and who owns what.
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/kvm/system.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/kvm/test_vm.h"

namespace cpr::kvm {
namespace {

using ::cpr::testing::CompletePendingIo;
using ::cpr::testing::IsOk;
using ::cpr::testing::kRamBytes;
using ::cpr::testing::LoadRealModeCode;
using ::cpr::testing::MakeTestVm;
using ::cpr::testing::RunToPort;
using ::cpr::testing::StatusIs;
using ::cpr::testing::TestVm;
using ::testing::HasSubstr;

constexpr uint8_t kVector = 0x51;
constexpr uint32_t kGsi = 7;
constexpr uint16_t kPort = 0x80;

UniqueFd MakeEventFd() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
void Signal(const UniqueFd& fd) { ASSERT_EQ(::eventfd_write(fd.get(), 1), 0); }
// 0 when there is none.
uint64_t TakeSignals(const UniqueFd& fd) {
  eventfd_t count = 0;
  return ::eventfd_read(fd.get(), &count) == 0 ? count : 0;
}

bool InIrr(const Vcpu& vcpu) {
  const auto lapic = vcpu.Lapic();
  return lapic.ok() && (lapic->regs[0x200 + 0x10 * (kVector / 32) + kVector % 32 / 8] & 1 << kVector % 8) != 0;
}

// KVM injects what an eventfd held when it was attached from a worker of its own.
bool BecomesPending(const Vcpu& vcpu) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (!InIrr(vcpu) && absl::Now() < deadline) ::sched_yield();
  return InIrr(vcpu);
}

class WrappersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    CPR_ASSERT_OK_AND_ASSIGN(System system, System::Create());
    system_.emplace(std::move(system));
    CPR_ASSERT_OK_AND_ASSIGN(ram_, Mapping::CreateAnonymous(kRamBytes));
  }
  // With a LAPIC that takes interrupts, and kGsi routed to it as kVector.
  absl::StatusOr<TestVm> MakeReady() {
    CPR_ASSIGN_OR_RETURN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kSplit));
    CPR_ASSIGN_OR_RETURN(kvm_lapic_state lapic, vm.vcpu().Lapic());
    lapic.regs[0xf0] = '\xff', lapic.regs[0xf1] = 1;
    CPR_RETURN_IF_ERROR(vm.vcpu().SetLapic(lapic));
    vm.routes.SetMsi(kGsi, 0xfee00000, kVector);
    CPR_RETURN_IF_ERROR(vm.routes.Commit(vm.vm));
    return vm;
  }

  std::optional<System> system_;
  Mapping ram_;
};

TEST_F(WrappersTest, SystemKnowsItsHost) {
  const HostCaps& caps = system_->caps();
  EXPECT_GE(caps.xsave_size_bytes, 4096u);
  EXPECT_EQ(caps.xsave_features & 3, 3u);
  EXPECT_GT(caps.max_memslots, 0u);
  EXPECT_GT(caps.max_vcpus, 0u);
  EXPECT_FALSE(system_->SupportedCpuid()->empty());
  EXPECT_GT(system_->MsrIndexList()->size(), 10u);
}

TEST_F(WrappersTest, WhatIsNotKvmIsAnError) {
  EXPECT_THAT(System::Create("/nonexistent/kvm"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/kvm")));
  EXPECT_THAT(System::Create("/dev/null"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("KVM_GET_API_VERSION")));
}

TEST_F(WrappersTest, ErrorsNameIoctlAndVcpu) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kSplit, 2));
  const absl::Status status = vm.vcpu(1).SetMpState({.mp_state = 99});
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("KVM_SET_MP_STATE vcpu 1: ")));
  EXPECT_EQ(StatusErrno(status), EINVAL);
  EXPECT_THAT(vm.vm.CreateVcpu(1), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("vcpu 1: KVM_CREATE_VCPU")));
  EXPECT_THAT(vm.vm.SetUserMemoryRegion({.slot = 9, .guest_phys_addr = 1, .memory_size = 4096}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("memslot 9 at 0x1: KVM_SET_USER_MEMORY_REGION")));
  EXPECT_THAT(vm.vm.DeassignIrqfd(-1, 3), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("irqfd of GSI 3")));
}

// A VM belongs to the mm that made it, so it is always rebuilt and never passed on.
TEST_F(WrappersTest, AnotherProcessCannotUseTheVm) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kSplit));
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool vm_refused = StatusErrno(vm.vm.Clock().status()) == EIO;
    const bool vcpu_refused = StatusErrno(vm.vcpu().Regs().status()) == EIO;
    ::_exit(vm_refused && vcpu_refused ? 0 : 1);
  }
  int wait_status = -1;
  ASSERT_EQ(::waitpid(child, &wait_status, 0), child);
  EXPECT_EQ(wait_status, 0);
}

TEST_F(WrappersTest, MsiReachesTheLapic) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeReady());
  ASSERT_FALSE(InIrr(vm.vcpu()));
  CPR_ASSERT_OK_AND_ASSIGN(const int delivered, vm.vm.SignalMsi({.address_lo = 0xfee00000, .data = kVector}));
  EXPECT_EQ(delivered, 1);
  EXPECT_TRUE(InIrr(vm.vcpu()));
}

// The interrupts of a handover: detached, they gather in the eventfd; attached to the new VM, they are delivered.
TEST_F(WrappersTest, InterruptsOfTheGapGatherAndReachTheNewVm) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm from, MakeReady());
  CPR_ASSERT_OK_AND_ASSIGN(TestVm to, MakeReady());
  const UniqueFd event = MakeEventFd();
  ASSERT_THAT(from.vm.AssignIrqfd(event.get(), kGsi), IsOk());
  ASSERT_THAT(from.vm.DeassignIrqfd(event.get(), kGsi), IsOk());
  Signal(event);
  EXPECT_FALSE(InIrr(from.vcpu()));
  ASSERT_THAT(to.vm.AssignIrqfd(event.get(), kGsi), IsOk());
  EXPECT_TRUE(BecomesPending(to.vcpu()));
  ASSERT_THAT(to.vm.DeassignIrqfd(event.get(), kGsi), IsOk());
}

TEST_F(WrappersTest, ResamplefdNeedsAFullIrqchipAndGetsIt) {
  if (!system_->caps().irqfd_resample) return;  // optional: KVM_CAP_IRQFD_RESAMPLE
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kFull));
  const UniqueFd event = MakeEventFd();
  const UniqueFd resample = MakeEventFd();
  ASSERT_THAT(vm.vm.AssignIrqfd(event.get(), 10, resample.get()), IsOk());
  EXPECT_THAT(vm.vm.DeassignIrqfd(event.get(), 10), IsOk());
}

TEST_F(WrappersTest, IoEventFdTakesTheWriteOutOfTheLoop) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kSplit));
  constexpr uint8_t kCode[] = {
      0xb0, 0x05, 0xe6, 0x90,  // mov al, 5; out 0x90, al
      0xb0, 0x06, 0xe6, 0x90,  // mov al, 6; out 0x90, al
      0xe6, 0x80,              // out 0x80, al
  };
  ASSERT_THAT(LoadRealModeCode(vm.vcpu(), ram_, kCode), IsOk());
  const UniqueFd five = MakeEventFd();
  const IoEventFd event = {
      .space = IoEventFd::Space::kPio, .address = 0x90, .size_bytes = 1, .datamatch = 5, .eventfd = five.get()};
  ASSERT_THAT(vm.vm.AssignIoEventFd(event), IsOk());
  EXPECT_THAT(vm.vm.AssignIoEventFd(event), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("ioeventfd at 0x90")));
  EXPECT_EQ(*RunToPort(vm.vcpu(), 0x90), 6u) << "only the 5 is matched";
  EXPECT_EQ(TakeSignals(five), 1u);
  EXPECT_EQ(*RunToPort(vm.vcpu(), kPort), 6u);
  EXPECT_THAT(vm.vm.DeassignIoEventFd(event), IsOk());
}

TEST_F(WrappersTest, ImmediateExitCompletesTheIoAndRunsNothing) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kSplit));
  constexpr uint8_t kCode[] = {0xe6, 0x80, 0xe6, 0x80};  // out 0x80, al, twice
  ASSERT_THAT(LoadRealModeCode(vm.vcpu(), ram_, kCode), IsOk());
  ASSERT_THAT(RunToPort(vm.vcpu(), kPort), IsOk());
  ASSERT_THAT(CompletePendingIo(vm.vcpu()), IsOk());
  EXPECT_EQ(vm.vcpu().Regs()->rip, testing::kCodeGpa + 2) << "the out is done, the next not begun";
  EXPECT_THAT(RunToPort(vm.vcpu(), kPort), IsOk());
}

TEST_F(WrappersTest, IrqLineRaisesThroughTheIoapic) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kFull));
  EXPECT_THAT(vm.vm.IrqLine(5, true), IsOk());
  EXPECT_EQ(vm.vm.Irqchip(KVM_IRQCHIP_IOAPIC)->chip.ioapic.irr & 1u << 5, 1u << 5);
  EXPECT_THAT(vm.vm.IrqLine(5, false), IsOk());
}

TEST_F(WrappersTest, MovedVcpuKeepsItsRunPage) {
  CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeTestVm(*system_, ram_, IrqchipKind::kSplit));
  kvm_run* const run = vm.vcpu().run();
  const Vcpu moved = std::move(vm.vcpu());
  EXPECT_EQ(moved.run(), run);
  EXPECT_EQ(vm.vcpu().fd(), -1);
  EXPECT_THAT(moved.Regs(), IsOk());
}

}  // namespace
}  // namespace cpr::kvm
