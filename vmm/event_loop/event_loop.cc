#include "vmm/event_loop/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr int kEventsPerWait = 32;

int64_t MonotonicNs() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000000000} + now.tv_nsec;
}

// Rounded up: a wait must not end early and spin.
int TimeoutMs(absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return -1;
  if (timeout <= absl::ZeroDuration()) return 0;
  const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1)));
  return static_cast<int>(std::min<int64_t>(ms, INT_MAX));
}

// Empties an eventfd or timerfd (both non-blocking): the event has been seen.
void Drain(int fd) {
  uint64_t count;
  while (::read(fd, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return ErrnoStatus(errno, "epoll_create1");
  UniqueFd wakeup(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wakeup.ok()) return ErrnoStatus(errno, "eventfd");
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.ok()) return ErrnoStatus(errno, "timerfd_create");
  std::unique_ptr<EventLoop> loop(new EventLoop(std::move(epoll), std::move(wakeup), std::move(timer)));
  CPR_RETURN_IF_ERROR(loop->WatchInternal());
  return loop;
}

absl::Status EventLoop::WatchInternal() {
  CPR_RETURN_IF_ERROR(Watch(wakeup_.get(), EPOLLIN, [this](uint32_t) { RunPosted(); }));
  return Watch(timer_.get(), EPOLLIN, [this](uint32_t) { RunTimers(); });
}

absl::Status EventLoop::Watch(int fd, uint32_t epoll_events, std::function<void(uint32_t)> callback) {
  const uint32_t generation = next_generation_++;
  epoll_event event = {};
  event.events = epoll_events;
  event.data.u64 = (uint64_t{generation} << 32) | static_cast<uint32_t>(fd);
  const int op = watched_.contains(fd) ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (::epoll_ctl(epoll_.get(), op, fd, &event) < 0) return ErrnoStatus(errno, absl::StrCat("epoll_ctl fd ", fd));
  watched_[fd] = std::make_shared<Watched>(Watched{generation, std::move(callback)});
  return absl::OkStatus();
}

void EventLoop::Unwatch(int fd) {
  if (watched_.erase(fd) == 0) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

TimerId EventLoop::AddTimer(absl::Duration after, std::function<void()> callback) {
  // A year is as good as never, and keeps the sum from overflowing.
  const absl::Duration wait = std::clamp(after, absl::ZeroDuration(), absl::Hours(24 * 365));
  const TimerId id = next_timer_++;
  timers_.emplace(MonotonicNs() + absl::ToInt64Nanoseconds(wait), Timer{id, std::move(callback)});
  ArmTimer();
  return id;
}

void EventLoop::CancelTimer(TimerId timer) {
  const auto it = std::find_if(timers_.begin(), timers_.end(), [&](const auto& t) { return t.second.id == timer; });
  if (it == timers_.end()) return;
  timers_.erase(it);
  ArmTimer();
}

void EventLoop::ArmTimer() {
  const int64_t deadline_ns = timers_.empty() ? 0 : timers_.begin()->first;
  if (deadline_ns == armed_ns_) return;
  armed_ns_ = deadline_ns;
  itimerspec spec = {};
  spec.it_value.tv_sec = deadline_ns / 1000000000;
  spec.it_value.tv_nsec = deadline_ns % 1000000000;
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
}

void EventLoop::RunTimers() {
  Drain(timer_.get());
  armed_ns_ = 0;
  // Only what was due on entry: a callback that adds a timer of zero must not keep the loop here.
  const int64_t now_ns = MonotonicNs();
  const TimerId first_new = next_timer_;
  while (!timers_.empty() && timers_.begin()->first <= now_ns && timers_.begin()->second.id < first_new) {
    const std::function<void()> callback = std::move(timers_.begin()->second.callback);
    timers_.erase(timers_.begin());
    callback();
  }
  ArmTimer();
}

void EventLoop::Post(std::function<void()> work) {
  {
    MutexLock lock(&mutex_);
    posted_.push_back(std::move(work));
  }
  Wake();
}

void EventLoop::RunPosted() {
  Drain(wakeup_.get());
  std::vector<std::function<void()>> work;
  {
    MutexLock lock(&mutex_);
    work.swap(posted_);
  }
  for (const std::function<void()>& w : work) w();
}

void EventLoop::Wake() {
  const uint64_t one = 1;
  // EAGAIN means that the counter is full: the loop wakes anyway.
  while (::write(wakeup_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

void EventLoop::Run() {
  while (!stop_.exchange(false)) RunOnce(absl::InfiniteDuration());
}

void EventLoop::Stop() {
  stop_ = true;
  Wake();
}

bool EventLoop::RunOnce(absl::Duration timeout) {
  std::array<epoll_event, kEventsPerWait> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsPerWait, TimeoutMs(timeout));
  for (int i = 0; i < count; ++i) {
    const int fd = static_cast<int>(events[i].data.u64 & 0xffffffff);
    const auto it = watched_.find(fd);
    if (it == watched_.end() || it->second->generation != events[i].data.u64 >> 32) continue;
    const std::shared_ptr<Watched> keep = it->second;  // lives on if the callback unwatches itself
    keep->callback(events[i].events);
  }
  return count > 0;
}

}  // namespace cpr
