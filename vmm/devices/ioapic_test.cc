#include "vmm/devices/ioapic.h"

#include <vector>

#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint32_t kLevel = 1 << 15, kMasked = 1 << 16, kRemoteIrr = 1 << 14;

class IoapicTest : public ::testing::Test {
 protected:
  uint32_t In(uint8_t index) {
    ioapic_.WriteMmio(0x00, 4, index);
    return ioapic_.ReadMmio(0x10, 4);
  }
  void Out(uint8_t index, uint32_t value) {
    ioapic_.WriteMmio(0x00, 4, index);
    ioapic_.WriteMmio(0x10, 4, value);
  }
  void Program(unsigned pin, uint32_t low, uint8_t destination = 0) {
    Out(static_cast<uint8_t>(0x11 + 2 * pin), uint32_t{destination} << 24);
    Out(static_cast<uint8_t>(0x10 + 2 * pin), low);
  }
  std::vector<uint32_t> TakeVectors() {
    std::vector<uint32_t> vectors;
    for (const MsiMessage& msi : sent_) vectors.push_back(msi.data & 0xff);
    sent_.clear();
    return vectors;
  }

  std::vector<MsiMessage> sent_;
  int route_changes_ = 0;
  std::vector<unsigned> eois_;
  std::function<void(unsigned)> on_eoi_;
  Ioapic ioapic_{{.send_msi = [this](const MsiMessage& msi) { sent_.push_back(msi); },
                  .routes_changed = [this] { ++route_changes_; },
                  .pin_eoi =
                      [this](unsigned pin) {
                        eois_.push_back(pin);
                        if (on_eoi_) on_eoi_(pin);
                      }}};
};

TEST_F(IoapicTest, ComesUpMasked) {
  EXPECT_EQ(In(0), 0u);
  EXPECT_EQ(In(1), 0x00170020u);
  for (unsigned pin = 0; pin < 24; ++pin) {
    EXPECT_EQ(In(static_cast<uint8_t>(0x10 + 2 * pin)), kMasked);
    EXPECT_EQ(In(static_cast<uint8_t>(0x11 + 2 * pin)), 0u);
  }
  EXPECT_EQ(In(0x40), 0u);
  EXPECT_THAT(ioapic_.Routes(), IsEmpty());
}

TEST_F(IoapicTest, RegistersKeepWhatIsWritable) {
  Out(0, 0xffffffff);
  EXPECT_EQ(In(0), 0x0f000000u);
  EXPECT_EQ(In(2), 0x0f000000u);
  Out(0x3e, 0xffffffff);
  EXPECT_EQ(In(0x3e), 0x1afffu);
  Out(0x3f, 0xffffffff);
  EXPECT_EQ(In(0x3f), 0xff000000u);
  Out(0x40, 0xffffffff);  // beyond the last
  ioapic_.WriteMmio(0x00, 1, 0x3e);
  EXPECT_EQ(ioapic_.ReadMmio(0x00, 1), 0x3eu);
  EXPECT_EQ(ioapic_.ReadMmio(0x20, 4), 0u);
}

TEST_F(IoapicTest, EdgeIsDeliveredOnceToItsDestination) {
  Program(4, 0x0831, 3);  // logical, fixed
  ioapic_.SetLine(4, true);
  ioapic_.SetLine(4, true);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0], (MsiMessage{0xfee03004, 0x31}));
  ioapic_.SetLine(4, false);
  ioapic_.SetLine(4, true);
  EXPECT_EQ(sent_.size(), 2u);
}

TEST_F(IoapicTest, EdgeAtAMaskedPinIsLost) {
  Program(4, 0x31 | kMasked);
  ioapic_.SetLine(4, true);
  Program(4, 0x31);
  EXPECT_THAT(sent_, IsEmpty());
}

TEST_F(IoapicTest, LevelIsDeliveredAgainWhileAsserted) {
  Program(10, 0x55 | kLevel);
  ioapic_.SetLine(10, true);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0], (MsiMessage{0xfee00000, 0x8055}));
  EXPECT_EQ(In(0x24) & kRemoteIrr, kRemoteIrr);
  ioapic_.SetLine(10, false);
  ioapic_.SetLine(10, true);
  EXPECT_EQ(sent_.size(), 1u) << "in service: not again before its end";
  ioapic_.Eoi(0x56);
  EXPECT_EQ(sent_.size(), 1u);
  ioapic_.Eoi(0x55);
  EXPECT_EQ(sent_.size(), 2u);
  ioapic_.SetLine(10, false);
  ioapic_.Eoi(0x55);
  EXPECT_EQ(sent_.size(), 2u);
  EXPECT_EQ(In(0x24) & kRemoteIrr, 0u);
}

TEST_F(IoapicTest, GuestMayWriteTheEndItself) {
  Program(10, 0x55 | kLevel);
  ioapic_.SetLine(10, true);
  ioapic_.SetLine(10, false);
  ioapic_.WriteMmio(0x40, 4, 0x55);
  EXPECT_EQ(In(0x24) & kRemoteIrr, 0u);
  EXPECT_THAT(eois_, ElementsAre(10u));
}

TEST_F(IoapicTest, MaskedLevelWaitsForUnmasking) {
  Program(10, 0x55 | kLevel | kMasked);
  ioapic_.SetLine(10, true);
  EXPECT_THAT(sent_, IsEmpty());
  Program(10, 0x55 | kLevel);
  EXPECT_THAT(TakeVectors(), ElementsAre(0x55u));
}

TEST_F(IoapicTest, SwitchingToEdgeEndsTheServiceAndCannotSetIt) {
  Program(10, 0x55 | kLevel);
  ioapic_.SetLine(10, true);
  Program(10, 0x55 | kMasked | kRemoteIrr);
  EXPECT_EQ(In(0x24), 0x55 | kMasked);
  Program(10, 0x55 | kLevel);
  EXPECT_EQ(sent_.size(), 2u);
}

TEST_F(IoapicTest, SharedVectorEndsForAllItsPins) {
  Program(10, 0x55 | kLevel);
  Program(11, 0x55 | kLevel);
  ioapic_.SetLine(10, true);
  ioapic_.SetLine(11, true);
  TakeVectors();
  on_eoi_ = [this](unsigned pin) { ioapic_.SetLine(pin, false); };
  ioapic_.Eoi(0x55);
  EXPECT_THAT(eois_, ElementsAre(10u, 11u));
  EXPECT_THAT(sent_, IsEmpty()) << "the device withdrew before the line was looked at";
}

TEST_F(IoapicTest, NmiIsAnEdgeWhateverTheTriggerBitSays) {
  Program(1, 0x400 | kLevel);
  ioapic_.SetLine(1, true);
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].data, 0x400u);
  EXPECT_EQ(In(0x12) & kRemoteIrr, 0u);
}

TEST_F(IoapicTest, ExtIntHasNoSource) {
  Program(0, 0x700);
  ioapic_.SetLine(0, true);
  EXPECT_THAT(sent_, IsEmpty());
  EXPECT_THAT(ioapic_.Routes(), IsEmpty());
}

TEST_F(IoapicTest, PinsBeyondTheLastAreNobodys) {
  ioapic_.SetLine(24, true);
  EXPECT_EQ(ioapic_.Save().lines, 0u);
}

TEST_F(IoapicTest, RoutesChangeOnlyWhenTheyDo) {
  Program(4, 0x31 | kMasked);
  EXPECT_EQ(route_changes_, 0);
  Program(4, 0x31);
  EXPECT_EQ(route_changes_, 1);
  Program(4, 0x31);
  EXPECT_EQ(route_changes_, 1);
  Program(4, 0x31, 2);
  EXPECT_EQ(route_changes_, 2);
  Program(10, 0x55 | kLevel | kMasked);
  EXPECT_THAT(ioapic_.Routes(),
              ElementsAre(IoapicRoute{4, {0xfee02000, 0x31}, false}, IoapicRoute{10, {0xfee00000, 0x8055}, true}));
  Program(4, 0x31 | kMasked, 2);
  EXPECT_THAT(ioapic_.Routes(), ElementsAre(IoapicRoute{10, {0xfee00000, 0x8055}, true}));
}

TEST_F(IoapicTest, RoutesAreToldBeforeTheirInterruptIsSent) {
  Program(10, 0x55 | kLevel | kMasked);
  ioapic_.SetLine(10, true);
  size_t sent_before = 99;
  Ioapic ioapic({.send_msi = [this](const MsiMessage& msi) { sent_.push_back(msi); },
                 .routes_changed = [&] { sent_before = sent_.size(); },
                 .pin_eoi = {}});
  ASSERT_THAT(ioapic.Restore(ioapic_.Save()), IsOk());
  ioapic.WriteMmio(0x00, 4, 0x24);
  ioapic.WriteMmio(0x10, 4, 0x56 | kLevel);
  EXPECT_EQ(sent_before, 0u);
  EXPECT_EQ(sent_.size(), 1u);
}

TEST_F(IoapicTest, RestoredLevelIsRaisedUnlessInService) {
  IoapicState state;
  state.redirection_entries[10] = 0x55 | kLevel;
  state.redirection_entries[11] = 0x66 | kLevel | kRemoteIrr;
  state.redirection_entries[12] = 0x77;  // edge: it was delivered when it came
  state.lines = 7 << 10;
  ASSERT_THAT(ioapic_.Restore(state), IsOk());
  EXPECT_THAT(sent_, IsEmpty());
  ioapic_.DeliverPending();
  EXPECT_THAT(TakeVectors(), ElementsAre(0x55u));
  // A device that drives its line to what it was makes no new edge.
  ioapic_.SetLine(12, true);
  EXPECT_THAT(sent_, IsEmpty());
  ioapic_.Eoi(0x66);
  EXPECT_THAT(TakeVectors(), ElementsAre(0x66u));
}

TEST_F(IoapicTest, RestoreRefusesRemoteIrrOfAnEdge) {
  IoapicState state;
  state.redirection_entries[3] = kRemoteIrr;
  EXPECT_THAT(ioapic_.Restore(state), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("redirection entry 3")));
}

}  // namespace
}  // namespace cpr
