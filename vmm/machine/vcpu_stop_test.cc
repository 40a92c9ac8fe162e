#include "vmm/machine/vcpu_stop.h"

#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cpr {
namespace {

using ::testing::EndsWith;

TEST(VcpuStopTest, TheGuestsOwnWishesAreEvents) {
  kvm_run run = {};
  run.exit_reason = KVM_EXIT_SYSTEM_EVENT;
  run.system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
  EXPECT_EQ(StopAfterExit(0, run).event, GuestEvent::kShutdown);
  run.system_event.type = KVM_SYSTEM_EVENT_RESET;
  EXPECT_EQ(StopAfterExit(0, run).event, GuestEvent::kReset);
  run.system_event.type = KVM_SYSTEM_EVENT_CRASH;
  EXPECT_EQ(StopAfterExit(0, run).event, GuestEvent::kPanic);
  run.exit_reason = KVM_EXIT_SHUTDOWN;
  EXPECT_EQ(StopAfterExit(0, run).event, GuestEvent::kReset) << "a triple fault resets a PC";
}

TEST(VcpuStopTest, AnInternalErrorSaysAllThatKvmHasSaid) {
  kvm_run run = {};
  run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
  run.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
  EXPECT_EQ(StopAfterExit(3, run).text, "vcpu 3 KVM internal error, suberror 3");
  run.internal.ndata = 2;
  run.internal.data[0] = 0x80000b0e;
  run.internal.data[1] = 0x400;
  EXPECT_EQ(StopAfterExit(3, run).text, "vcpu 3 KVM internal error, suberror 3, data 0x80000b0e 0x400");
  EXPECT_EQ(StopAfterExit(3, run).event, GuestEvent::kInternalError);
}

TEST(VcpuStopTest, NoMoreDataIsReadThanThereIsRoomFor) {
  kvm_run run = {};
  run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
  run.internal.ndata = ~0u;
  run.internal.data[std::size(run.internal.data) - 1] = 0xf;
  EXPECT_THAT(StopAfterExit(0, run).text, EndsWith(" 0x0 0xf"));
}

TEST(VcpuStopTest, AnExitThatNobodyKnowsIsAnInternalError) {
  kvm_run run = {};
  run.exit_reason = 4711;
  EXPECT_EQ(StopAfterExit(1, run).text, "vcpu 1 unknown KVM exit 4711");
  EXPECT_EQ(StopAfterExit(1, run).event, GuestEvent::kInternalError);
}

kvm_run DeliveryError() {
  kvm_run run = {};
  run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
  run.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
  return run;
}

TEST(DeliveryErrorsTest, ItIsAMistakeIfNothingWasDelivered) {
  DeliveryErrors errors;
  kvm_vcpu_events waiting = {};
  waiting.exception.pending = waiting.nmi.pending = 1;
  EXPECT_TRUE(errors.IsMistake(DeliveryError(), waiting, {})) << "what waits is not under way";
  kvm_vcpu_events exception = {}, interrupt = {}, nmi = {};
  exception.exception.injected = interrupt.interrupt.injected = nmi.nmi.injected = 1;
  for (const kvm_vcpu_events& events : {exception, interrupt, nmi})
    EXPECT_FALSE(errors.IsMistake(DeliveryError(), events, {}));
}

TEST(DeliveryErrorsTest, OtherErrorsAreNoMistakes) {
  DeliveryErrors errors;
  kvm_run run = DeliveryError();
  run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
  EXPECT_FALSE(errors.IsMistake(run, {}, {}));
  run = DeliveryError();
  run.exit_reason = KVM_EXIT_FAIL_ENTRY;
  EXPECT_FALSE(errors.IsMistake(run, {}, {}));
}

TEST(DeliveryErrorsTest, WhereNothingMovesItIsNoMistake) {
  DeliveryErrors errors;
  const auto tries = [&errors](const auto& after_each) {
    kvm_regs regs = {};
    unsigned count = 0;
    for (; count < 10'000 && errors.IsMistake(DeliveryError(), {}, regs); ++count) after_each(regs);
    return count;
  };
  EXPECT_EQ(tries([&errors](kvm_regs&) { errors.Forget(); }), 10'000u) << "with other exits in between";
  EXPECT_EQ(tries([](kvm_regs& regs) { ++regs.rsp; }), 10'000u) << "the guest moves on";
  EXPECT_LE(tries([](kvm_regs&) {}), 100u) << "the vCPU would spin for ever";
}

}  // namespace
}  // namespace cpr
