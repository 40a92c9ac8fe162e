#ifndef VMM_EVENT_LOOP_EVENT_LOOP_H_
#define VMM_EVENT_LOOP_EVENT_LOOP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libcpr/base/mutex.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// Names a timer of one loop; 0 is never given out.
using TimerId = uint64_t;

// The VMM's main loop: file descriptors, timers and work from other threads, one callback at a time.
// Post and Stop are thread-safe; everything else must be called on the thread that runs the loop (or before it runs).
// A callback may do anything to the loop but destroy it or run it, also unwatch itself or another fd whose event was
// already reported.
class EventLoop {
 public:
  // Errors carry errno of epoll_create1, eventfd or timerfd_create.
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();
  // Drops what is watched, timers and posted work without calling any of it.
  ~EventLoop() = default;
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Calls `callback` with the events reported whenever `fd` has one of `epoll_events` (EPOLLIN, ... or EPOLLET);
  // EPOLLERR and EPOLLHUP are always among them. A second Watch of the same fd replaces the first. `fd` is lent and
  // must be unwatched before it is closed: where another process holds a copy, epoll would go on reporting it.
  // Errors carry errno: EPERM for what cannot be polled, such as a regular file.
  absl::Status Watch(int fd, uint32_t epoll_events, std::function<void(uint32_t events)> callback);
  // After this the callback is not called again. Unknown fds are ignored.
  void Unwatch(int fd);

  // Calls `callback` once, `after` from now (monotonic clock; negative counts as zero).
  TimerId AddTimer(absl::Duration after, std::function<void()> callback);
  // Unknown and expired timers are ignored.
  void CancelTimer(TimerId timer);

  // Runs `work` on the loop's thread, in the order posted. Never blocks on the loop. Thread-safe.
  void Post(std::function<void()> work);

  // Runs until Stop. A Stop before Run makes Run return at once.
  void Run();
  // Ends Run once the events already reported have been dealt with. Thread-safe.
  void Stop();
  // Waits at most `timeout` for events and calls their callbacks; true if there was any. Zero polls,
  // absl::InfiniteDuration() waits. Meant for tests and for waits inside of a handover.
  bool RunOnce(absl::Duration timeout);

 private:
  struct Watched {
    uint32_t generation;
    std::function<void(uint32_t)> callback;
  };
  struct Timer {
    TimerId id;
    std::function<void()> callback;
  };

  EventLoop(UniqueFd epoll, UniqueFd wakeup, UniqueFd timer)
      : epoll_(std::move(epoll)), wakeup_(std::move(wakeup)), timer_(std::move(timer)) {}
  absl::Status WatchInternal();
  void Wake();
  void RunPosted();
  void RunTimers();
  void ArmTimer();

  UniqueFd epoll_;
  UniqueFd wakeup_;
  UniqueFd timer_;
  std::atomic<bool> stop_{false};
  // A number for each Watch travels in the epoll event, so that an event of an fd closed and opened again under the
  // same number meanwhile is not taken for the new one's.
  uint32_t next_generation_ = 1;
  std::unordered_map<int, std::shared_ptr<Watched>> watched_;
  TimerId next_timer_ = 1;
  std::multimap<int64_t, Timer> timers_;  // by deadline, CLOCK_MONOTONIC ns
  int64_t armed_ns_ = 0;                  // what timer_ is set to, 0 = off
  Mutex mutex_;
  std::vector<std::function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cpr

#endif  // VMM_EVENT_LOOP_EVENT_LOOP_H_
