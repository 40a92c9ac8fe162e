#ifndef VMM_VIRTIO_FAKE_VHOST_H_
#define VMM_VIRTIO_FAKE_VHOST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "libcpr/base/mutex.h"
#include "vmm/virtio/vhost_net.h"

namespace cpr::testing {

// Stands in for /dev/vhost-net, with the kernel's rules: who owns it, what has to be set before what, and what
// VHOST_RESET_OWNER forgets. It serves no queue. Thread-safe, but for what is asked of it: that is the test's.
class FakeVhost {
 public:
  struct Queue {
    uint32_t size = 0;
    uint32_t next_available = 0;
    uint64_t descriptors = 0, available = 0, used = 0;
    int kick_fd = -1, call_fd = -1, backend_fd = -1;
  };
  struct Region {
    uint64_t gpa, size_bytes, hva;
  };

  // What a process, known by a number that is not 0, calls.
  IoctlFunction As(int process);

  // The next call but `after` is refused with `error`.
  void FailOne(size_t after, int error);

  uint64_t offered_features = ~uint64_t{0};
  // As they are.
  int owner = 0;
  uint64_t features = 0;
  std::vector<Region> memory;
  std::vector<Queue> queues{2};
  // Each call, in order: "queue 0: VHOST_SET_VRING_NUM".
  std::vector<std::string> calls;

 private:
  int Call(int process, unsigned long request, void* argument);    // NOLINT(google-runtime-int)
  int Answer(int process, unsigned long request, void* argument);  // NOLINT(google-runtime-int)
  int AnswerQueue(unsigned long request, void* argument);          // NOLINT(google-runtime-int)

  Mutex mutex_;
  std::optional<size_t> fail_after_;
  int error_ = 0;
};

}  // namespace cpr::testing

#endif  // VMM_VIRTIO_FAKE_VHOST_H_
