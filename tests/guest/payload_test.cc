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
  if (::testing::FLAGS_gtest_color == "yes" || getenv("CPR_SHOW_GUEST") != nullptr) puts(guest->serial().c_str());
}

TEST(Payload, RunsOnOneVcpu) {
  CPR_SKIP_WITHOUT_KVM();
  RunsAndVerifies({});
}

}  // namespace
}  // namespace cpr::testing
