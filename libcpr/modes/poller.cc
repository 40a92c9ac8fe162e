#include "libcpr/modes/poller.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <cerrno>

#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/phase.h"

namespace cpr {

absl::StatusOr<Poller> Poller::Create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return ErrnoStatus(errno, "epoll_create1");
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.ok()) return ErrnoStatus(errno, "timerfd_create");
  Poller poller(std::move(epoll), std::move(timer));
  CPR_RETURN_IF_ERROR(poller.Watch(poller.timer_.get(), EPOLLIN));
  return poller;
}

absl::Status Poller::Watch(int fd, uint32_t events) {
  epoll_event event = {};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  if (errno == EEXIST && ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "epoll_ctl");
}

void Poller::Forget(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

void Poller::SetDeadline(absl::Duration from_now) {
  itimerspec when = {};
  deadline_ns_ = 0;
  if (from_now != absl::InfiniteDuration()) {
    // A timer of zero would disarm: what is due at once is due in a nanosecond.
    if (from_now < absl::Nanoseconds(1)) from_now = absl::Nanoseconds(1);
    when.it_value = absl::ToTimespec(from_now);
    deadline_ns_ = MonotonicNs() + absl::ToInt64Nanoseconds(from_now);
  }
  ::timerfd_settime(timer_.get(), 0, &when, nullptr);
}

bool Poller::deadline_passed() const { return deadline_ns_ != 0 && MonotonicNs() >= deadline_ns_; }

absl::Status Poller::Wait() const {
  pollfd ready = {epoll_.get(), POLLIN, 0};
  while (::poll(&ready, 1, -1) < 0) {
    if (errno != EINTR) return ErrnoStatus(errno, "poll");
  }
  return absl::OkStatus();
}

}  // namespace cpr
