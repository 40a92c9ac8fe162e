#ifndef VMM_VIRTIO_TAP_H_
#define VMM_VIRTIO_TAP_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// The end of a tap interface that a guest's network card is: what is written the host receives, and the other way
// round. Before each frame goes virtio's header of 12 bytes, which says what checksums and segments are still to be
// made. What nobody reads waits in the interface's queue, also while its fd goes from one VMM to the next.
// Thread-safe. Source: Linux, Documentation/networking/tuntap.rst and <linux/if_tun.h>.
class Tap {
 public:
  static constexpr size_t kHeaderBytes = 12;
  static constexpr size_t kMaxParts = 1023;  // of a frame

  // Attaches to the interface `name`, or makes it: then it lasts as long as anybody has the fd. Empty: the kernel finds
  // a name. Errors have QEMU's words and carry errno.
  static absl::StatusOr<Tap> Create(const std::string& name);
  // Takes over an fd that is attached already, and makes it non-blocking. kFailedPrecondition: it is no tap's, or of
  // one without virtio's headers.
  static absl::StatusOr<Tap> Adopt(UniqueFd fd);

  // An fd as Create and Adopt make it, unchecked.
  Tap(UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  int fd() const { return fd_.get(); }  // lent; readable when a frame waits

  // What those who read can finish themselves: TUN_F_CSUM and the like; 0: nothing.
  absl::Status SetOffloads(unsigned tun_flags) const;
  // The next frame with its header, as much of it as there is room for: how many bytes, 0 if none waits. More than fit
  // into `buffers`, which are at most kMaxParts: the rest of it is lost.
  absl::StatusOr<size_t> Read(absl::Span<const absl::Span<uint8_t>> buffers) const;
  // Sends a frame with its header. After an error it is lost.
  absl::Status Write(absl::Span<const absl::Span<uint8_t>> buffers) const;

 private:
  UniqueFd fd_;
  std::string name_;
};

}  // namespace cpr

#endif  // VMM_VIRTIO_TAP_H_
