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
  if (getenv("CPR_SHOW_GUEST") != nullptr) puts(guest->serial().c_str());
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

}  // namespace
}  // namespace cpr::testing
