#include "vmm/app/event_outbox.h"

#include <string>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using Kind = MonitorEvent::Kind;

class EventOutboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create();
    ASSERT_THAT(loop.status(), testing::IsOk());
    loop_ = *std::move(loop);
    outbox_ = std::make_unique<EventOutbox>(loop_.get(), [this](const MonitorEvent& event) {
      sent_ += event.kind == Kind::kStop ? "stop " : event.kind == Kind::kResume ? "resume " : "migration ";
    });
  }
  void Add(Kind kind, bool later) { outbox_->Add({.kind = kind}, later); }
  // Lets the loop run until that was sent, and no more.
  void AwaitSent(const std::string& text) {
    const absl::Time limit = absl::Now() + absl::Seconds(10);
    while (sent_ != text && absl::Now() < limit) loop_->RunOnce(absl::Milliseconds(100));
    EXPECT_EQ(sent_, text);
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<EventOutbox> outbox_;
  std::string sent_;
};

TEST_F(EventOutboxTest, AnEventGoesOutAtOnce) {
  Add(Kind::kStop, /*later=*/false);
  EXPECT_EQ(sent_, "stop ");
}

TEST_F(EventOutboxTest, AnEventOfAHandoverIsHeldAndGoesOutByItself) {
  Add(Kind::kMigration, /*later=*/true);
  Add(Kind::kStop, /*later=*/true);
  EXPECT_EQ(sent_, "") << "while the guest stands still";
  AwaitSent("migration stop ");
}

TEST_F(EventOutboxTest, AHeldEventGoesBeforeALaterOne) {
  Add(Kind::kStop, /*later=*/true);
  Add(Kind::kResume, /*later=*/false);
  EXPECT_EQ(sent_, "stop resume ");
}

TEST_F(EventOutboxTest, WhileAGuestArrivesEverythingIsHeld) {
  Add(Kind::kMigration, /*later=*/true);
  outbox_->LetGuestArrive();
  Add(Kind::kResume, /*later=*/false);
  outbox_->SendDue();
  EXPECT_EQ(sent_, "");
  AwaitSent("migration resume ");
  Add(Kind::kStop, /*later=*/false);
  EXPECT_EQ(sent_, "migration resume stop ") << "the guest has arrived";
}

TEST_F(EventOutboxTest, AProgramThatEndsSendsWhatItHolds) {
  outbox_->LetGuestArrive();
  Add(Kind::kStop, /*later=*/true);
  outbox_->SendAll();
  EXPECT_EQ(sent_, "stop ");
}

TEST_F(EventOutboxTest, ItsTimersDoNotOutliveIt) {
  Add(Kind::kStop, /*later=*/true);
  outbox_.reset();
  bool over = false;
  loop_->AddTimer(EventOutbox::kLongestDelay + absl::Milliseconds(1), [&over] { over = true; });
  const absl::Time limit = absl::Now() + absl::Seconds(10);
  while (!over && absl::Now() < limit) loop_->RunOnce(absl::Milliseconds(100));
  EXPECT_TRUE(over);
  EXPECT_EQ(sent_, "");
}

}  // namespace
}  // namespace cpr
