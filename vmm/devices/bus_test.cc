#include "vmm/devices/bus.h"

#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class BusTest : public ::testing::Test {
 protected:
  // A device that writes down what it is asked and answers with bytes that count up from its offset.
  BusHandler Device(const std::string& name) {
    return {[=, this](uint64_t offset, unsigned size) {
              log_.push_back(absl::StrFormat("%s r%d @%d", name, size, offset));
              return (0x0706050403020100 + offset * 0x0101010101010101);
            },
            [=, this](uint64_t offset, unsigned size, uint64_t value) {
              log_.push_back(absl::StrFormat("%s w%d @%d %x", name, size, offset, value));
            }};
  }
  Bus bus_;
  std::vector<std::string> log_;
};

TEST_F(BusTest, PassesAccessesOnWithTheirSizes) {
  ASSERT_THAT(bus_.Add("a", 0x100, 0x10, 8, Device("a")), IsOk());
  EXPECT_EQ(bus_.Read(0x104, 1), 0x04u);
  EXPECT_EQ(bus_.Read(0x104, 2), 0x0504u);
  EXPECT_EQ(bus_.Read(0x104, 4), 0x07060504u);
  EXPECT_EQ(bus_.Read(0x100, 8), 0x0706050403020100u);
  bus_.Write(0x10f, 1, 0x1ff);
  EXPECT_THAT(log_, ElementsAre("a r1 @4", "a r2 @4", "a r4 @4", "a r8 @0", "a w1 @15 ff"));
}

TEST_F(BusTest, NobodysAddressesReadAsOnes) {
  EXPECT_EQ(bus_.Read(0, 1), 0xffu);
  EXPECT_EQ(bus_.Read(5, 4), 0xffffffffu);
  EXPECT_EQ(bus_.Read(~uint64_t{0} - 7, 8), ~uint64_t{0});
  bus_.Write(5, 4, 1);
}

TEST_F(BusTest, WideAccessesAreSplitForNarrowDevices) {
  ASSERT_THAT(bus_.Add("byte", 0x70, 2, 1, Device("byte")), IsOk());
  bus_.Write(0x70, 2, 0xbbaa);
  EXPECT_EQ(bus_.Read(0x70, 2), 0x0100u);
  EXPECT_THAT(log_, ElementsAre("byte w1 @0 aa", "byte w1 @1 bb", "byte r1 @0", "byte r1 @1"));
}

TEST_F(BusTest, AccessAcrossTheEndReachesTheNeighbour) {
  ASSERT_THAT(bus_.Add("a", 0x10, 3, 4, Device("a")), IsOk());
  ASSERT_THAT(bus_.Add("b", 0x13, 1, 4, Device("b")), IsOk());
  EXPECT_EQ(bus_.Read(0x11, 4), 0xff000201u);
  EXPECT_THAT(log_, ElementsAre("a r2 @1", "b r1 @0"));
}

TEST_F(BusTest, OverlapsAreRefusedByName) {
  ASSERT_THAT(bus_.Add("first", 0x100, 0x10, 4, Device("first")), IsOk());
  const auto overlaps = StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("overlaps first"));
  EXPECT_THAT(bus_.Add("x", 0x10f, 1, 4, Device("x")), overlaps);
  EXPECT_THAT(bus_.Add("x", 0xf0, 0x100, 4, Device("x")), overlaps);
  EXPECT_THAT(bus_.Add("x", 0x100, 1, 4, Device("x")), overlaps);
  EXPECT_THAT(bus_.Add("x", 0xff, 1, 4, Device("x")), IsOk());
  EXPECT_THAT(bus_.Add("x", 0x110, 1, 4, Device("x")), IsOk());
}

TEST_F(BusTest, RangesMustNotBeEmptyOrWrap) {
  EXPECT_THAT(bus_.Add("x", 1, 0, 4, Device("x")), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x")));
  EXPECT_THAT(bus_.Add("x", ~uint64_t{0}, 2, 4, Device("x")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x")));
  EXPECT_THAT(bus_.Add("last", ~uint64_t{0}, 1, 4, Device("last")), IsOk());
  EXPECT_EQ(bus_.Read(~uint64_t{0}, 1), 0u);
}

TEST_F(BusTest, HandlerMayMoveItself) {
  BusHandler mover = Device("mover");
  mover.write = [&](uint64_t, unsigned, uint64_t value) {
    ASSERT_THAT(bus_.Remove(0x10), IsOk());
    ASSERT_THAT(bus_.Add("mover", value, 4, 4, Device("moved")), IsOk());
  };
  ASSERT_THAT(bus_.Add("mover", 0x10, 4, 4, mover), IsOk());
  bus_.Write(0x10, 4, 0x20);
  EXPECT_EQ(bus_.Read(0x10, 1), 0xffu);
  EXPECT_EQ(bus_.Read(0x20, 1), 0u);
  EXPECT_THAT(bus_.Remove(0x10), StatusIs(absl::StatusCode::kNotFound, HasSubstr("0x10")));
}

}  // namespace
}  // namespace cpr
