#ifndef VMM_VIRTIO_VHOST_NET_H_
#define VMM_VIRTIO_VHOST_NET_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/ioctl_function.h"
#include "libcpr/base/unique_fd.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/virtio/virtqueue.h"

namespace cpr {

struct VhostRequest;

// The kernel as a network device's other half: from Start to Stop it moves frames between the queues in the guest's RAM
// and a tap, and nobody else may touch either.
//
// The kernel's object belongs to the process that started it, by its address space, and to nobody while it is stopped:
// then its fd can go to another process, or through an execve, and be started there. What it knows is forgotten by
// then; where it stopped is for the caller to keep. Thread-compatible. Source: Linux, <linux/vhost.h> and
// drivers/vhost.
class VhostNet {
 public:
  // Opens /dev/vhost-net. Errors have QEMU's words and carry errno.
  static absl::StatusOr<UniqueFd> Open();
  // Takes an fd that is nobody's yet. An empty `ioctl` is the kernel's. Errors name the step that the kernel refused,
  // and carry errno; kUnimplemented: it lacks features.
  static absl::StatusOr<VhostNet> Create(UniqueFd fd, IoctlFunction ioctl = {});
  // The same with an fd that has come with a guest: until the other VMM has stopped it, it is that one's.
  static absl::StatusOr<VhostNet> Adopt(UniqueFd fd, IoctlFunction ioctl = {});

  int fd() const { return fd_.get(); }  // lent

  struct Queue {
    unsigned index = 0;
    const Virtqueue* rings = nullptr;
    int kick_fd = -1;  // an eventfd: the driver's notifications
    int call_fd = -1;  // an eventfd: the driver's interrupts; -1: it wants none
  };
  // Takes the fd for this process, tells the kernel of those of the driver's `features` that concern it, and lets the
  // kernel serve `queues`, each from its state on. All that is lent has to be there until Stop. After an error the
  // kernel serves nothing, and the fd is nobody's.
  absl::Status Start(uint64_t features, const GuestMemory& memory, absl::Span<const Queue> queues, int tap_fd);
  // Where a queue's interrupts go from now on, as in Queue.
  absl::Status SetCall(unsigned index, int call_fd) const;

  struct Stopped {
    // By Start's queues: the next request; empty if the kernel would not say.
    std::vector<std::optional<uint16_t>> next_available;
    absl::Status status;  // the first step that was refused; the others were taken nevertheless
  };
  // Returns when the kernel is done with what it has begun and looks at nothing any more. The fd is nobody's then.
  Stopped Stop();

 private:
  VhostNet(UniqueFd fd, IoctlFunction ioctl) : fd_(std::move(fd)), ioctl_(std::move(ioctl)) {}
  absl::Status Call(const VhostRequest& request, void* argument) const;
  absl::Status SetUp(uint64_t features, const GuestMemory& memory, absl::Span<const Queue> queues, int tap_fd) const;
  absl::Status SetMemory(const GuestMemory& memory) const;
  absl::Status SetUpQueue(const Queue& queue) const;
  absl::Status SetBackend(unsigned index, int fd) const;
  absl::Status ResetOwner() const;

  UniqueFd fd_;
  IoctlFunction ioctl_;
  std::vector<unsigned> started_;  // queues
};

}  // namespace cpr

#endif  // VMM_VIRTIO_VHOST_NET_H_
