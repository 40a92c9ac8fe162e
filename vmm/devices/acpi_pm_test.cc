#include "vmm/devices/acpi_pm.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::testing::ElementsAre;

class AcpiPmTest : public ::testing::Test {
 protected:
  absl::Time now_ = absl::FromUnixSeconds(1'000'000'000);
  absl::Duration up_ = absl::Seconds(1000);
  void Pass(absl::Duration time) {
    now_ += time;
    up_ += time;
  }
  std::vector<bool> sci_;
  int suspends_ = 0, power_offs_ = 0;
  AcpiPm::Wiring wiring_{.sci = [this](bool level) { sci_.push_back(level); },
                         .suspend = [this] { ++suspends_; },
                         .power_off = [this] { ++power_offs_; },
                         .monotonic_ns = [this] { return absl::ToInt64Nanoseconds(up_); },
                         .utc = [this] { return now_; }};
  AcpiPm pm_{wiring_};
};

TEST_F(AcpiPmTest, PowerButtonRaisesTheSciUntilCleared) {
  pm_.PressPowerButton();
  EXPECT_TRUE(sci_.empty()) << "not enabled";
  pm_.Write(2, 2, 0x100);
  EXPECT_EQ(pm_.Read(0, 4), 0x01000100u);
  pm_.Write(0, 2, 0x100);
  EXPECT_EQ(pm_.Read(0, 2), 0u);
  EXPECT_THAT(sci_, ElementsAre(true, false));
}

TEST_F(AcpiPmTest, AcpiIsAlwaysOn) {
  EXPECT_EQ(pm_.Read(4, 2), 1u);
  pm_.Write(4, 2, 0);
  EXPECT_EQ(pm_.Read(4, 2), 1u);
}

TEST_F(AcpiPmTest, SleepEnableSleepsAndIsNotRead) {
  pm_.Write(4, 2, 1 << 10);
  EXPECT_EQ(suspends_, 0);
  pm_.Write(4, 2, 1 << 13 | 1 << 10);
  EXPECT_EQ(suspends_, 1);
  EXPECT_EQ(pm_.Read(4, 2), 1u | 1 << 10);
  pm_.Write(5, 1, (1 << 13 | 5 << 10) >> 8);
  EXPECT_EQ(power_offs_, 1);
  pm_.Write(4, 2, 1 << 13 | 3 << 10);
  EXPECT_EQ(suspends_ + power_offs_, 2);
}

TEST_F(AcpiPmTest, TimerCountsAndWraps) {
  const uint32_t before = pm_.Read(8, 4);
  Pass(absl::Seconds(2));
  EXPECT_EQ(pm_.Read(8, 4) - before, 2 * AcpiPm::kTimerHz);
  Pass(absl::Hours(1000));
  EXPECT_EQ(pm_.Read(8, 4) - before, static_cast<uint32_t>((2 + 3'600'000) * AcpiPm::kTimerHz));
}

TEST_F(AcpiPmTest, SettingTheHostsClockDoesNotMoveTheTimer) {
  Pass(absl::Seconds(5));
  now_ += absl::Hours(1);
  EXPECT_EQ(pm_.Read(8, 4), static_cast<uint32_t>(5 * AcpiPm::kTimerHz));
  now_ -= absl::Hours(2);
  EXPECT_EQ(pm_.Read(8, 4), static_cast<uint32_t>(5 * AcpiPm::kTimerHz));
}

TEST_F(AcpiPmTest, TimerGoesOnOverAHandoverAlsoToAnotherKernel) {
  Pass(absl::Seconds(5));
  const AcpiPmState state = pm_.Save();
  now_ += absl::Seconds(3);
  up_ = absl::ZeroDuration();
  AcpiPm next(wiring_);
  ASSERT_THAT(next.Restore(state), IsOk());
  EXPECT_EQ(next.Read(8, 4), static_cast<uint32_t>(8 * AcpiPm::kTimerHz));
}

TEST_F(AcpiPmTest, TimerNeverGoesBackOverAHandover) {
  Pass(absl::Seconds(5));
  const AcpiPmState state = pm_.Save();
  now_ -= absl::Hours(1);
  AcpiPm next(wiring_);
  ASSERT_THAT(next.Restore(state), IsOk());
  EXPECT_EQ(next.Read(8, 4), static_cast<uint32_t>(5 * AcpiPm::kTimerHz));
}

TEST_F(AcpiPmTest, WakesWithItsStatusSet) {
  pm_.Write(2, 2, 0x100);
  pm_.PressPowerButton();
  pm_.Reset();
  pm_.SetWakeStatus();
  EXPECT_EQ(pm_.Read(0, 4), 0x8000u);
  EXPECT_THAT(sci_, ElementsAre(true, false));
}

}  // namespace
}  // namespace cpr
