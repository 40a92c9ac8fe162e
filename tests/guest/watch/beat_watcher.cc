#include "tests/guest/watch/beat_watcher.h"

#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <ctime>
#include <random>

#include "absl/time/clock.h"

namespace cpr {
namespace {

// Each look costs the vCPU some 50 us, as this thread mostly is on the vCPU's CPU: looking every 100 us made a pause of
// 1.4 ms look longer by a tenth. Not at even intervals, of which every pause would be a multiple.
constexpr int64_t kShortestSleepNs = 150'000;
constexpr int64_t kLongestSleepNs = 350'000;
constexpr absl::Duration kLastBeatLimit = absl::Seconds(5);

int64_t NowNs() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

BeatWatcher::BeatWatcher(const GuestView* view) : view_(view), thread_([this] { Watch(); }) {
  // The first beat seen is where the measurement begins.
  while (changes_.load(std::memory_order_acquire) == 0 && !stop_.load()) absl::SleepFor(absl::Microseconds(50));
}

BeatWatcher::~BeatWatcher() {
  if (thread_.joinable()) Stop();
}

int64_t BeatWatcher::Stop() {
  const uint64_t seen = changes_.load(std::memory_order_acquire);
  const absl::Time limit = absl::Now() + kLastBeatLimit;
  while (changes_.load(std::memory_order_acquire) == seen && absl::Now() < limit)
    absl::SleepFor(absl::Microseconds(50));
  stop_.store(true);
  thread_.join();
  return longest_ns_;
}

void BeatWatcher::Watch() {
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  // As root. Without it a vCPU may keep this thread off its CPU for a time slice, which then looks like a pause.
  const sched_param first = {.sched_priority = 1};
  ::sched_setscheduler(0, SCHED_FIFO, &first);
  std::minstd_rand random;
  std::uniform_int_distribution<long> sleep_ns(kShortestSleepNs, kLongestSleepNs);  // NOLINT
  uint64_t last_beats = view_->beats();
  int64_t last_change_ns = NowNs();
  const int64_t give_up_ns = last_change_ns + absl::ToInt64Nanoseconds(kLastBeatLimit);
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint64_t beats = view_->beats();
    const int64_t now_ns = NowNs();
    if (beats != last_beats) {
      longest_ns_ = std::max(longest_ns_, now_ns - last_change_ns);
      last_beats = beats;
      last_change_ns = now_ns;
      changes_.fetch_add(1, std::memory_order_release);
    } else if (changes_.load(std::memory_order_relaxed) == 0 && now_ns > give_up_ns) {
      changes_.store(1, std::memory_order_release);  // a guest that stands still: Stop will tell how long
    }
    const timespec sleep = {0, sleep_ns(random)};
    ::clock_nanosleep(CLOCK_MONOTONIC, 0, &sleep, nullptr);
  }
  longest_ns_ = std::max(longest_ns_, NowNs() - last_change_ns);
}

}  // namespace cpr
