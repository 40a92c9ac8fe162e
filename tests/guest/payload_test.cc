#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/guest/guest_vm.h"

namespace cpr::testing {
namespace {

using ::testing::HasSubstr;

void RunsAndVerifies(const GuestVm::Options& options) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestVm> guest, GuestVm::Create(options));
  guest->Resume();
  ASSERT_THAT(guest->WaitRunning(), IsOk());
  ASSERT_THAT(guest->WaitFor([&] {
    return guest->abi().vcpu[0].ticks > 50 && guest->serial().find(" s OK ") != std::string::npos;
  }),
              IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const uint32_t verdict, guest->Verify());
  EXPECT_EQ(verdict, CPR_GUEST_OK) << const_cast<const char*>(guest->abi().fail_text);
  for (uint32_t i = 0; i < options.vcpus; ++i) {
    EXPECT_GT(guest->abi().vcpu[i].ticks, 0u);
    EXPECT_GT(guest->abi().vcpu[i].pages_rewritten, 0u);
  }
}

TEST(Payload, RunsOnOneVcpu) {
  CPR_SKIP_WITHOUT_KVM();
  RunsAndVerifies({});
}

TEST(Payload, RunsOnTwoVcpus) {
  CPR_SKIP_WITHOUT_KVM();
  RunsAndVerifies({.vcpus = 2});
}

TEST(Payload, RunsOnFourVcpusWithTheKernelsIrqchip) {
  CPR_SKIP_WITHOUT_KVM();
  RunsAndVerifies({.vcpus = 4, .cmdline = "irq4", .full_irqchip = true});
}

TEST(Payload, RunsOnFourVcpusThatSleep) {
  CPR_SKIP_WITHOUT_KVM();
  RunsAndVerifies({.vcpus = 4, .cmdline = "idle"});
}

TEST(Payload, RunsWithoutX2Apic) {
  CPR_SKIP_WITHOUT_KVM();
  RunsAndVerifies({.vcpus = 3, .offer_x2apic = false});
}

TEST(Payload, RunsWithRamAboveTheHole) {
  CPR_SKIP_WITHOUT_KVM();
  RunsAndVerifies({.ram_bytes = uint64_t{8} << 30, .cmdline = "ws=64 touch=200"});
}

TEST(Payload, RunsOnSixtyFourVcpus) {
  CPR_SKIP_WITHOUT_KVM();
  RunsAndVerifies({.vcpus = 64, .cmdline = "idle ws=16"});
}

TEST(Payload, AnswersWhatIsTyped) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestVm> guest, GuestVm::Create({.cmdline = "quiet"}));
  guest->Resume();
  ASSERT_THAT(guest->WaitRunning(), IsOk());
  guest->Type('x');
  EXPECT_THAT(guest->WaitFor([&] {
    const std::string text = guest->serial();
    return text.find("typed 'x'") != std::string::npos && text.find(" s OK ") != std::string::npos;
  }),
              IsOk());
  EXPECT_EQ(guest->abi().serial_rx_count, 1u);
}

TEST(Payload, NoticesALongPauseAndVerifies) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestVm> guest, GuestVm::Create({.cmdline = "gap=300000"}));
  guest->Resume();
  ASSERT_THAT(guest->WaitRunning(), IsOk());
  guest->Pause();
  const uint64_t round = guest->abi().round;
  absl::SleepFor(absl::Milliseconds(400));
  guest->Resume();
  EXPECT_THAT(guest->WaitFor([&] { return guest->abi().vcpu[0].verified_round > round; }), IsOk());
  EXPECT_GE(guest->abi().gaps_noticed, 1u);
  EXPECT_GE(guest->abi().vcpu[0].max_gap_tsc, guest->abi().tsc_khz * 400);
  EXPECT_EQ(guest->abi().failure, CPR_GUEST_OK) << const_cast<const char*>(guest->abi().fail_text);
}

// The guest must find nothing amiss in a right handover, or its verdict would be worth nothing.
void SurvivesHandovers(const GuestVm::Options& options) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestVm> guest, GuestVm::Create(options));
  guest->Resume();
  ASSERT_THAT(guest->WaitRunning(), IsOk());
  for (int i = 0; i < 10; ++i) {
    const uint64_t ticks = guest->abi().vcpu[0].ticks;
    ASSERT_THAT(guest->WaitFor([&] { return guest->abi().vcpu[0].ticks > ticks + 5; }), IsOk()) << "handover " << i;
    guest->Pause();
    ASSERT_THAT(guest->Rebuild(), IsOk());
    guest->Resume();
    CPR_ASSERT_OK_AND_ASSIGN(const uint32_t verdict, guest->Verify());
    ASSERT_EQ(verdict, CPR_GUEST_OK) << "handover " << i << ": " << const_cast<const char*>(guest->abi().fail_text);
  }
  for (uint32_t i = 0; i < options.vcpus; ++i) EXPECT_GT(guest->abi().vcpu[i].clock_stopped_seen, 0u);
  ::testing::Test::RecordProperty("max_clock_jump_ns", absl::StrCat(guest->abi().vcpu[0].max_clock_jump_ns));
}

TEST(Payload, SurvivesHandoversOnOneVcpu) {
  CPR_SKIP_WITHOUT_KVM();
  SurvivesHandovers({});
}

TEST(Payload, SurvivesHandoversOnThreeVcpus) {
  CPR_SKIP_WITHOUT_KVM();
  SurvivesHandovers({.vcpus = 3});
}

TEST(Payload, SurvivesHandoversWithTheKernelsIrqchip) {
  CPR_SKIP_WITHOUT_KVM();
  SurvivesHandovers({.vcpus = 2, .cmdline = "irq4 idle", .full_irqchip = true});
}

}  // namespace
}  // namespace cpr::testing
