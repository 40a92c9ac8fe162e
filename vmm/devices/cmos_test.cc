#include "vmm/devices/cmos.h"

#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/civil_time.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;

class CmosTest : public ::testing::Test {
 protected:
  uint8_t In(uint8_t index) {
    cmos_.Write(0, index);
    return cmos_.Read(1);
  }
  void Out(uint8_t index, uint8_t value) {
    cmos_.Write(0, index);
    cmos_.Write(1, value);
  }
  // Century to seconds as the registers show them.
  std::string Shown() {
    return absl::StrFormat("%02x%02x-%02x-%02x %02x:%02x:%02x", In(0x32), In(9), In(8), In(7), In(4), In(2), In(0));
  }

  absl::Time now_ = absl::FromCivil(absl::CivilSecond(2024, 2, 29, 23, 58, 57), absl::UTCTimeZone());
  Cmos cmos_{{.ram_below_4g_bytes = uint64_t{3} << 30, .ram_above_4g_bytes = uint64_t{5} << 30, .utc = [this] {
                return now_;
              }}};
};

TEST_F(CmosTest, ShowsTheHostsTime) {
  EXPECT_EQ(Shown(), "2024-02-29 23:58:57");
  EXPECT_EQ(In(6), 5) << "Thursday";
  now_ += absl::Seconds(64);
  EXPECT_EQ(Shown(), "2024-03-01 00:00:01");
}

TEST_F(CmosTest, BinaryAndTwelveHourForms) {
  Out(0x0b, 0x06);
  EXPECT_EQ(Shown(), "1418-02-1d 17:3a:39");
  Out(0x0b, 0x00);
  EXPECT_EQ(In(4), 0x91) << "11 at night";
  now_ += absl::Hours(1);
  EXPECT_EQ(In(4), 0x12) << "midnight";
  now_ += absl::Hours(12);
  EXPECT_EQ(In(4), 0x92) << "noon";
}

TEST_F(CmosTest, WarnsBeforeTheSecondChanges) {
  EXPECT_EQ(In(0x0a), 0x26);
  now_ += absl::Microseconds(999800);
  EXPECT_EQ(In(0x0a), 0xa6);
}

TEST_F(CmosTest, GuestSetsTheClockWhileItIsHalted) {
  Out(0x0b, 0x82);
  now_ += absl::Hours(5);
  EXPECT_EQ(Shown(), "2024-02-29 23:58:57") << "halted";
  Out(0x32, 0x19);
  Out(0x09, 0x99);
  Out(0x08, 0x12);
  Out(0x07, 0x31);
  Out(0x04, 0x23);
  Out(0x02, 0x59);
  Out(0x00, 0x58);
  Out(0x0b, 0x02);
  EXPECT_EQ(Shown(), "1999-12-31 23:59:58");
  now_ += absl::Seconds(3);
  EXPECT_EQ(Shown(), "2000-01-01 00:00:01");
}

TEST_F(CmosTest, HaltingInAnotherFormShowsTheTimeInThatForm) {
  Out(0x0b, 0x86);
  EXPECT_EQ(Shown(), "1418-02-1d 17:3a:39");
  Out(0x0b, 0x06);
  EXPECT_EQ(Shown(), "1418-02-1d 17:3a:39");
}

TEST_F(CmosTest, GuestSetsOneRegisterOfTheRunningClock) {
  Out(4, 0x12);
  now_ += absl::Seconds(3);
  EXPECT_EQ(Shown(), "2024-02-29 12:59:00");
}

TEST_F(CmosTest, TimeGoesOnAcrossAHandover) {
  Out(9, 0x30);
  const CmosState saved = cmos_.Save();
  now_ += absl::Seconds(10);
  Cmos other({.ram_below_4g_bytes = 0, .ram_above_4g_bytes = 0, .utc = [this] { return now_; }});
  ASSERT_THAT(other.Restore(saved), IsOk());
  other.Write(0, 9);
  EXPECT_EQ(other.Read(1), 0x30);
  other.Write(0, 2);
  EXPECT_EQ(other.Read(1), 0x59);
}

TEST_F(CmosTest, TellsTheSizeOfMemory) {
  EXPECT_EQ(In(0x15) | In(0x16) << 8, 640);
  EXPECT_EQ(In(0x17) | In(0x18) << 8, 0xffff);
  EXPECT_EQ(In(0x30) | In(0x31) << 8, 0xffff);
  EXPECT_EQ(In(0x34) | In(0x35) << 8, (3072 - 16) * 16);
  EXPECT_EQ(In(0x5b) | In(0x5c) << 8 | In(0x5d) << 16, 5 * 16384);
}

TEST_F(CmosTest, PlainMemoryAndStatusRegisters) {
  Out(0x40, 0x5a);
  EXPECT_EQ(In(0x40), 0x5a);
  EXPECT_EQ(In(0xc0), 0x5a) << "bit 7 of the index is the NMI mask";
  Out(0x0c, 0xff);
  Out(0x0d, 0x00);
  EXPECT_EQ(In(0x0c), 0x00);
  EXPECT_EQ(In(0x0d), 0x80);
  EXPECT_EQ(cmos_.Read(0), 0xff);
}

TEST_F(CmosTest, WhateverTheGuestWritesCanBeRestored) {
  for (const uint8_t value : {0xff, 0x00, 0x7f}) {
    for (int index = 0; index < 256; ++index) Out(static_cast<uint8_t>(index), value);
    EXPECT_THAT(cmos_.Restore(cmos_.Save()), IsOk());
    Shown();
  }
}

}  // namespace
}  // namespace cpr
