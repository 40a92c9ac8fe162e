#include "vmm/devices/reset_control.h"

#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

class ResetControlTest : public ::testing::Test {
 protected:
  int resets_ = 0;
  ResetControl device_{[this] { ++resets_; }};
};

TEST_F(ResetControlTest, KeyboardPulseResets) {
  device_.WriteKeyboard(0xfe);
  EXPECT_EQ(resets_, 1);
  device_.WriteKeyboard(0xf0);
  EXPECT_EQ(resets_, 2);
  for (const uint8_t other : {0xff, 0xaa, 0xd1, 0x00}) device_.WriteKeyboard(other);
  EXPECT_EQ(resets_, 2);
  EXPECT_EQ(device_.ReadKeyboard(), 0xff);
}

TEST_F(ResetControlTest, ResetControlResetsOnBit2) {
  device_.WriteResetControl(0x02);
  EXPECT_EQ(resets_, 0);
  EXPECT_EQ(device_.ReadResetControl(), 0x02);
  device_.WriteResetControl(0x06);
  EXPECT_EQ(resets_, 1);
  EXPECT_EQ(device_.ReadResetControl(), 0x02);
  device_.WriteResetControl(0xf9);
  EXPECT_EQ(device_.ReadResetControl(), 0x00);
  EXPECT_EQ(resets_, 1);
}

}  // namespace
}  // namespace cpr
