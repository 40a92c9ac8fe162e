#ifndef VMM_VIRTIO_HOST_NETWORK_H_
#define VMM_VIRTIO_HOST_NETWORK_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"

namespace cpr::testing {

// A silent network namespace for the calling thread, which stays in it. kPermissionDenied: this user may make none.
absl::Status EnterNewNetwork();

// The host's end of a tap interface: an open door to its frames, of one protocol that nobody else speaks.
// Thread-compatible.
class HostEnd {
 public:
  // Switches the interface on.
  static absl::StatusOr<HostEnd> Create(const std::string& interface);

  // A whole frame, from its Ethernet header on, with `text` as payload.
  static std::string Frame(absl::string_view text);
  absl::Status Send(absl::string_view frame) const;
  // Waits for the next frame that comes from the tap.
  absl::StatusOr<std::string> Receive() const;
  // Whether frames may reach the tap without their checksums.
  absl::StatusOr<bool> ChecksumsLeftToTap() const;

 private:
  HostEnd(UniqueFd socket, std::string interface) : socket_(std::move(socket)), interface_(std::move(interface)) {}

  UniqueFd socket_;
  std::string interface_;
};

}  // namespace cpr::testing

#endif  // VMM_VIRTIO_HOST_NETWORK_H_
