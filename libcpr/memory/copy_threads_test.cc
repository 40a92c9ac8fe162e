#include "libcpr/memory/copy_threads.h"

#include <poll.h>
#include <signal.h>

#include <atomic>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/mutex.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

absl::Status AwaitEnd(CopyThreads& threads) {
  for (;;) {
    const absl::StatusOr<bool> done = threads.Advance();
    if (!done.ok()) return done.status();
    if (*done) return absl::OkStatus();
    pollfd ready = {threads.fd(), POLLIN, 0};
    ::poll(&ready, 1, -1);
  }
}

TEST(CopyThreadsTest, EveryStepIsDoneOnce) {
  constexpr int kSteps = 1000;
  Mutex mutex;
  std::multiset<int> done;
  std::atomic<int> next{0};
  CPR_ASSERT_OK_AND_ASSIGN(const auto threads, CopyThreads::Start(4, [&]() -> absl::StatusOr<bool> {
                             const int step = next++;
                             if (step >= kSteps) return false;
                             MutexLock lock(&mutex);
                             done.insert(step);
                             return true;
                           }));
  ASSERT_THAT(AwaitEnd(*threads), IsOk());
  MutexLock lock(&mutex);
  EXPECT_EQ(done.size(), size_t{kSteps});
  EXPECT_EQ(std::set<int>(done.begin(), done.end()).size(), size_t{kSteps});
  EXPECT_THAT(threads->Finish(), IsOk()) << "it can be asked again";
}

TEST(CopyThreadsTest, TheFirstErrorEndsAllAndIsTheOneReported) {
  std::atomic<int> next{0};
  std::atomic<bool> failed{false};
  // Without an end of its own.
  CPR_ASSERT_OK_AND_ASSIGN(const auto threads, CopyThreads::Start(4, [&]() -> absl::StatusOr<bool> {
                             if (next++ < 20) return true;
                             if (failed.exchange(true)) return true;
                             return absl::ResourceExhaustedError("the disk is full");
                           }));
  EXPECT_THAT(AwaitEnd(*threads), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("the disk is full")));
  EXPECT_THAT(threads->Finish(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("the disk is full")));
}

TEST(CopyThreadsTest, DestroyingEndsWorkThatHasNoEnd) {
  std::atomic<int> steps{0};
  {
    CPR_ASSERT_OK_AND_ASSIGN(const auto threads, CopyThreads::Start(2, [&]() -> absl::StatusOr<bool> {
                               ++steps;
                               return true;
                             }));
    while (steps == 0) EXPECT_FALSE(*threads->Advance());
  }
  const int steps_then = steps;
  EXPECT_GT(steps_then, 0);
}

TEST(CopyThreadsTest, AdvanceDoesNotWait) {
  Mutex mutex;
  CondVar changed;
  bool open = false;
  CPR_ASSERT_OK_AND_ASSIGN(const auto threads, CopyThreads::Start(1, [&]() -> absl::StatusOr<bool> {
                             MutexLock lock(&mutex);
                             while (!open) changed.Wait(&mutex);
                             return false;
                           }));
  CPR_ASSERT_OK_AND_ASSIGN(const bool done, threads->Advance());
  EXPECT_FALSE(done);
  {
    MutexLock lock(&mutex);
    open = true;
  }
  changed.SignalAll();
  EXPECT_THAT(AwaitEnd(*threads), IsOk());
}

TEST(CopyThreadsTest, SignalsOfTheProcessAreForOthers) {
  std::atomic<bool> takes_term{true}, takes_fault{false};
  CPR_ASSERT_OK_AND_ASSIGN(const auto threads, CopyThreads::Start(1, [&]() -> absl::StatusOr<bool> {
                             sigset_t blocked;
                             ::pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
                             takes_term = sigismember(&blocked, SIGTERM) == 0;
                             takes_fault = sigismember(&blocked, SIGBUS) == 0;
                             return false;
                           }));
  ASSERT_THAT(threads->Finish(), IsOk());
  EXPECT_FALSE(takes_term);
  EXPECT_TRUE(takes_fault);
  sigset_t blocked;
  ::pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 0) << "the caller's mask was changed";
}

TEST(CopyThreadsTest, DefaultIsAFew) {
  EXPECT_GE(DefaultCopyThreads(), 1u);
  EXPECT_LE(DefaultCopyThreads(), 8u);
}

}  // namespace
}  // namespace cpr
