#ifndef TESTS_GUEST_WATCH_BEAT_WATCHER_H_
#define TESTS_GUEST_WATCH_BEAT_WATCHER_H_

#include <atomic>
#include <cstdint>
#include <thread>

#include "tests/guest/watch/guest_view.h"

namespace cpr {

// Measures pauses of the guest from outside: a thread that looks at vCPU 0's beat in the guest's RAM some 4000 times a
// second and remembers the longest time in which it did not change. One pause is right to 350 microseconds, the mean of
// many to a few: where in the interval a pause begins and ends is chance. It sleeps between looks, so as not to take a
// CPU from what it measures, and as root it is scheduled first; its own lateness makes a pause look longer, never
// shorter. Thread-compatible.
class BeatWatcher {
 public:
  // `view` must outlive the watcher. It watches from here to Stop.
  explicit BeatWatcher(const GuestView* view);
  ~BeatWatcher();
  BeatWatcher(const BeatWatcher&) = delete;
  BeatWatcher& operator=(const BeatWatcher&) = delete;

  // Waits until the beat has moved once more, so that a pause that is just over counts in full, then ends and returns
  // the longest pause in nanoseconds.
  int64_t Stop();

 private:
  void Watch();

  const GuestView* view_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> changes_{0};
  int64_t longest_ns_ = 0;
  std::thread thread_;
};

}  // namespace cpr

#endif  // TESTS_GUEST_WATCH_BEAT_WATCHER_H_
