// Lines with an IOAPIC in user space; KVM's own is tested by guests.
#include "vmm/machine/intx_lines.h"

#include <sys/eventfd.h>

#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

struct Device {
  UniqueFd trigger{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}, resample{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

  IntxRouter::Line Line(uint32_t gsi) const { return {trigger.get(), resample.get(), gsi}; }
  void Interrupt() const { ::eventfd_write(trigger.get(), 1); }
  bool Asked() const {
    eventfd_t count = 0;
    return ::eventfd_read(resample.get(), &count) == 0;
  }
};

class IntxLinesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_ASSERT_OK_AND_ASSIGN(loop_, EventLoop::Create());
    lines_ = std::make_unique<IntxLines>(nullptr, loop_.get(),
                                         [this](unsigned gsi, bool asserted) { changes_.emplace_back(gsi, asserted); });
    ASSERT_THAT(lines_->Add(device_.Line(17)), IsOk());
  }
  void RunLoop() {
    while (loop_->RunOnce(absl::ZeroDuration())) {
    }
  }

  Device device_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<IntxLines> lines_;
  std::vector<std::pair<unsigned, bool>> changes_;
};

TEST_F(IntxLinesTest, AnOpenLineIsAssertedUntilTheGuestIsDone) {
  ASSERT_THAT(lines_->Open(device_.Line(17)), IsOk());
  device_.Interrupt();
  RunLoop();
  EXPECT_THAT(changes_, ElementsAre(Pair(17, true)));
  EXPECT_FALSE(device_.Asked());
  lines_->Eoi(17);
  EXPECT_THAT(changes_, ElementsAre(Pair(17, true), Pair(17, false)));
  EXPECT_TRUE(device_.Asked()) << "whether it wants more";
}

TEST_F(IntxLinesTest, WhatComesWhileItIsClosedIsThereWhenItOpens) {
  device_.Interrupt();
  RunLoop();
  EXPECT_THAT(changes_, IsEmpty());
  ASSERT_THAT(lines_->Open(device_.Line(17)), IsOk());
  EXPECT_THAT(changes_, ElementsAre(Pair(17, true)));
}

TEST_F(IntxLinesTest, ClosingDeasserts) {
  ASSERT_THAT(lines_->Open(device_.Line(17)), IsOk());
  device_.Interrupt();
  RunLoop();
  ASSERT_THAT(lines_->Close(device_.Line(17)), IsOk());
  EXPECT_THAT(changes_, ElementsAre(Pair(17, true), Pair(17, false)));
  lines_->Eoi(17);
  EXPECT_FALSE(device_.Asked()) << "of a line that is closed";
}

TEST_F(IntxLinesTest, HeldItStaysAssertedAndTheGuestIsDoneLater) {
  ASSERT_THAT(lines_->Open(device_.Line(17)), IsOk());
  device_.Interrupt();
  RunLoop();
  ASSERT_THAT(lines_->Hold(device_.Line(17)), IsOk());
  EXPECT_THAT(changes_, ElementsAre(Pair(17, true)));
  ASSERT_THAT(lines_->Open(device_.Line(17)), IsOk());
  EXPECT_THAT(changes_, ElementsAre(Pair(17, true))) << "twice the same";
  EXPECT_FALSE(device_.Asked());
  lines_->Eoi(17);
  EXPECT_THAT(changes_, ElementsAre(Pair(17, true), Pair(17, false)));
  EXPECT_TRUE(device_.Asked());
}

TEST_F(IntxLinesTest, AllAtOnePinAreAsked) {
  const Device other, elsewhere;
  for (const auto& line : {other.Line(17), elsewhere.Line(18)}) {
    ASSERT_THAT(lines_->Add(line), IsOk());
    ASSERT_THAT(lines_->Open(line), IsOk());
  }
  ASSERT_THAT(lines_->Open(device_.Line(17)), IsOk());
  device_.Interrupt();
  RunLoop();
  lines_->Eoi(17);
  EXPECT_TRUE(device_.Asked());
  EXPECT_TRUE(other.Asked());
  EXPECT_FALSE(elsewhere.Asked());
  EXPECT_THAT(changes_, ElementsAre(Pair(17, true), Pair(17, false)));
  for (const auto& line : {other.Line(17), elsewhere.Line(18)}) lines_->Remove(line);
}

TEST_F(IntxLinesTest, ClosingOneAsksTheOthersAtItsPin) {
  const Device other;
  ASSERT_THAT(lines_->Add(other.Line(17)), IsOk());
  ASSERT_THAT(lines_->Open(other.Line(17)), IsOk());
  ASSERT_THAT(lines_->Open(device_.Line(17)), IsOk());
  other.Interrupt();
  RunLoop();
  ASSERT_THAT(lines_->Close(device_.Line(17)), IsOk());
  EXPECT_TRUE(other.Asked()) << "its interrupt is lost";
  EXPECT_FALSE(device_.Asked());
  lines_->Remove(other.Line(17));
}

TEST_F(IntxLinesTest, RemovedIsNotListenedTo) {
  ASSERT_THAT(lines_->Open(device_.Line(17)), IsOk());
  lines_->Remove(device_.Line(17));
  changes_.clear();
  device_.Interrupt();
  RunLoop();
  EXPECT_THAT(changes_, IsEmpty());
}

}  // namespace
}  // namespace cpr
