#ifndef LIBCPR_MODES_POLLER_H_
#define LIBCPR_MODES_POLLER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// One fd that stands for several: an epoll instance with the descriptors that a handover waits for, and a deadline.
// Thread-compatible.
class Poller {
 public:
  static absl::StatusOr<Poller> Create();

  // Readable when a watched descriptor is ready or the deadline has passed. Lent.
  int fd() const { return epoll_.get(); }

  // Watches `fd` (lent; Forget it before it is closed) for `events` (EPOLLIN, EPOLLOUT); 0 keeps it quiet but for
  // hang-up.
  absl::Status Watch(int fd, uint32_t events);
  void Forget(int fd);

  // Sets the deadline, from now; InfiniteDuration takes it away.
  void SetDeadline(absl::Duration from_now);
  bool deadline_passed() const;

  // Blocks until fd() is readable.
  absl::Status Wait() const;

 private:
  Poller(UniqueFd epoll, UniqueFd timer) : epoll_(std::move(epoll)), timer_(std::move(timer)) {}
  UniqueFd epoll_;
  UniqueFd timer_;
  int64_t deadline_ns_ = 0;  // CLOCK_MONOTONIC; 0: none
};

}  // namespace cpr

#endif  // LIBCPR_MODES_POLLER_H_
