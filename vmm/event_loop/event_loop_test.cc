#include "vmm/event_loop/event_loop.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

class EventLoopTest : public ::testing::Test {
 protected:
  void SetUp() override { CPR_ASSERT_OK_AND_ASSIGN(loop_, EventLoop::Create()); }
  // An eventfd that is readable already.
  static UniqueFd ReadyFd() { return UniqueFd(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)); }
  std::unique_ptr<EventLoop> loop_;
};

TEST_F(EventLoopTest, WatchReportsUntilUnwatched) {
  const UniqueFd fd = ReadyFd();
  int calls = 0;
  ASSERT_THAT(loop_->Watch(fd.get(), EPOLLIN, [&](uint32_t events) { calls += (events & EPOLLIN) != 0; }), IsOk());
  EXPECT_TRUE(loop_->RunOnce(absl::ZeroDuration()));
  EXPECT_TRUE(loop_->RunOnce(absl::ZeroDuration()));
  EXPECT_EQ(calls, 2);
  loop_->Unwatch(fd.get());
  loop_->Unwatch(fd.get());
  EXPECT_FALSE(loop_->RunOnce(absl::ZeroDuration()));
}

TEST_F(EventLoopTest, SecondWatchReplacesTheFirst) {
  const UniqueFd fd = ReadyFd();
  int first = 0, second = 0;
  ASSERT_THAT(loop_->Watch(fd.get(), EPOLLIN, [&](uint32_t) { ++first; }), IsOk());
  ASSERT_THAT(loop_->Watch(fd.get(), EPOLLOUT, [&](uint32_t events) { second = static_cast<int>(events); }), IsOk());
  EXPECT_TRUE(loop_->RunOnce(absl::ZeroDuration()));
  EXPECT_EQ(first, 0);
  EXPECT_EQ(second, EPOLLOUT);
  loop_->Unwatch(fd.get());
}

TEST_F(EventLoopTest, RegularFilesAreRefused) {
  const UniqueFd fd(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  EXPECT_THAT(loop_->Watch(fd.get(), EPOLLIN, [](uint32_t) {}),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("epoll_ctl fd")));
}

TEST_F(EventLoopTest, CallbackMayUnwatchItselfAndTheOther) {
  const UniqueFd a = ReadyFd(), b = ReadyFd();
  int calls = 0;
  // Both are reported by the same wait; whichever comes first silences both.
  const auto silence = [&](uint32_t) {
    ++calls;
    loop_->Unwatch(a.get());
    loop_->Unwatch(b.get());
  };
  ASSERT_THAT(loop_->Watch(a.get(), EPOLLIN, silence), IsOk());
  ASSERT_THAT(loop_->Watch(b.get(), EPOLLIN, silence), IsOk());
  EXPECT_TRUE(loop_->RunOnce(absl::ZeroDuration()));
  EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, EventOfAClosedFdDoesNotReachItsSuccessor) {
  UniqueFd a = ReadyFd(), b = ReadyFd();
  std::vector<std::string> seen;
  const auto replace = [&](UniqueFd& other) {
    const int number = other.get();
    loop_->Unwatch(number);
    other.Reset();
    other.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    ASSERT_EQ(other.get(), number);
    ASSERT_THAT(loop_->Watch(number, EPOLLIN, [&](uint32_t) { seen.push_back("successor"); }), IsOk());
  };
  const auto first = [&](UniqueFd& self, UniqueFd& other) {
    seen.push_back("first");
    replace(other);
    loop_->Unwatch(self.get());
  };
  ASSERT_THAT(loop_->Watch(a.get(), EPOLLIN, [&](uint32_t) { first(a, b); }), IsOk());
  ASSERT_THAT(loop_->Watch(b.get(), EPOLLIN, [&](uint32_t) { first(b, a); }), IsOk());
  loop_->RunOnce(absl::ZeroDuration());
  EXPECT_EQ(seen, std::vector<std::string>{"first"});
}

TEST_F(EventLoopTest, TimersFireInOrderOfTheirDeadlines) {
  std::string order;
  loop_->AddTimer(absl::Milliseconds(3), [&] {
    order += "b";
    loop_->Stop();
  });
  loop_->AddTimer(absl::Milliseconds(1), [&] { order += "a"; });
  const TimerId cancelled = loop_->AddTimer(absl::Milliseconds(2), [&] { order += "x"; });
  loop_->CancelTimer(cancelled);
  loop_->CancelTimer(cancelled);
  loop_->Run();
  EXPECT_EQ(order, "ab");
}

TEST_F(EventLoopTest, TimerAddedByATimerWaitsForTheNextRound) {
  int calls = 0;
  loop_->AddTimer(absl::ZeroDuration(), [&] {
    ++calls;
    loop_->AddTimer(-absl::Seconds(1), [&] { ++calls; });
  });
  EXPECT_TRUE(loop_->RunOnce(absl::Seconds(5)));
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(loop_->RunOnce(absl::Seconds(5)));
  EXPECT_EQ(calls, 2);
}

TEST_F(EventLoopTest, RunOnceWaitsNoLongerThanAsked) {
  const absl::Time start = absl::Now();
  loop_->AddTimer(absl::Hours(1), [] {});
  EXPECT_FALSE(loop_->RunOnce(absl::Milliseconds(5)));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(4));
}

TEST_F(EventLoopTest, PostedWorkOfOtherThreadsRunsHereInOrder) {
  std::vector<int> seen;
  const std::thread::id here = std::this_thread::get_id();
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) {
      loop_->Post([&, i] {
        EXPECT_EQ(std::this_thread::get_id(), here);
        seen.push_back(i);
      });
    }
    loop_->Post([&] { loop_->Stop(); });
  });
  loop_->Run();
  other.join();
  ASSERT_EQ(seen.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
}

TEST_F(EventLoopTest, StopBeforeRunEndsIt) {
  loop_->Stop();
  loop_->Run();
  // ... once: the next Run runs again.
  loop_->Post([&] { loop_->Stop(); });
  loop_->Run();
}

TEST_F(EventLoopTest, WorkLeftBehindIsDroppedWithTheLoop) {
  auto alive = std::make_shared<int>(0);
  loop_->Post([alive] {});
  loop_->AddTimer(absl::Hours(1), [alive] {});
  EXPECT_EQ(alive.use_count(), 3);
  loop_.reset();
  EXPECT_EQ(alive.use_count(), 1);
}

}  // namespace
}  // namespace cpr
