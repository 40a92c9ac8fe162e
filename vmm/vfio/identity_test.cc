#include "vmm/vfio/identity.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;

constexpr VfioIdentity kNvme = {.vendor_id = 0x1b36, .device_id = 0x0010, .bar_bytes = {0x4000}};

TEST(VfioIdentityTest, TheSameDeviceIsKnownAgain) { EXPECT_THAT(CheckVfioIdentity(kNvme, kNvme), IsOk()); }

TEST(VfioIdentityTest, AnotherDeviceIsRefusedByName) {
  const VfioIdentity card = {.vendor_id = 0x8086, .device_id = 0x10d3, .bar_bytes = {0x4000}};
  EXPECT_THAT(CheckVfioIdentity(card, kNvme),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       "the host's device is another one: it is 8086:10d3, the guest had 1b36:0010"));
}

TEST(VfioIdentityTest, EachOtherBarIsNamed) {
  VfioIdentity other = kNvme;
  other.bar_bytes[0] = 0x8000;
  other.bar_bytes[4] = 0x1000;
  EXPECT_THAT(CheckVfioIdentity(other, kNvme),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       "the host's device is another one: BAR 0 has 0x8000 bytes, the guest had 0x4000; BAR 4 has "
                       "0x1000 bytes, the guest had 0"));
}

}  // namespace
}  // namespace cpr
