#ifndef LIBCPR_PRESERVE_SOCKET_H_
#define LIBCPR_PRESERVE_SOCKET_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// What one message carried. `eof`: the peer has closed its end, and there is nothing else in it.
struct Packet {
  std::string bytes;
  std::vector<UniqueFd> fds;  // CLOEXEC set
  bool eof = false;
};

// A non-blocking SOCK_SEQPACKET unix socket that carries bytes and descriptors (SCM_RIGHTS): the cpr channel.
// Messages keep their bounds, and the fds of a message come with its bytes. The peer must be of our uid or root.
// Thread-compatible.
class PacketSocket {
 public:
  static constexpr size_t kMaxFds = 253;          // the kernel's limit for one message
  static constexpr size_t kMaxBytes = 128 << 10;  // fits the socket buffer that every system grants

  // Listens at `path`, mode 0600 from the first moment. A socket file that nobody listens on is replaced;
  // kAlreadyExists: somebody does, or the file is no socket. kInvalidArgument: the path is longer than 107 bytes.
  static absl::StatusOr<PacketSocket> Listen(const std::string& path);

  // The next connection of a listener. kUnavailable: nobody waits; kPermissionDenied, naming the uid: the peer is
  // neither of our uid nor root; its connection is closed.
  absl::StatusOr<PacketSocket> Accept() const;

  // kUnavailable: nobody listens there yet, or the queue is full. kPermissionDenied as with Accept.
  static absl::StatusOr<PacketSocket> Connect(const std::string& path);

  // Takes over a descriptor (owned from here on, also on error) that must be a unix SOCK_SEQPACKET; it becomes
  // non-blocking and CLOEXEC.
  static absl::StatusOr<PacketSocket> Adopt(UniqueFd fd);
  static absl::StatusOr<std::pair<PacketSocket, PacketSocket>> CreatePair();

  // Sends one message; `fds` are lent. kUnavailable: the peer's queue is full, poll for writing. kFailedPrecondition,
  // "peer is gone": it has closed. kInvalidArgument: empty, or past the limits.
  absl::Status Send(absl::string_view bytes, absl::Span<const int> fds = {});

  // Receives one message. kUnavailable: there is none yet. kResourceExhausted: it or its descriptors were truncated
  // (more bytes than the limit, or more fds than RLIMIT_NOFILE leaves room for); what came of it is closed.
  absl::StatusOr<Packet> Receive();

  // Lent, to poll.
  int fd() const { return fd_.get(); }
  // Gives the descriptor away, to be carried over.
  UniqueFd Release() { return std::move(fd_); }

 private:
  explicit PacketSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// Blocks until `fd` (lent) can be read or written, or has an error or hang-up to report. kDeadlineExceeded: `deadline`
// came first.
absl::Status WaitReadable(int fd, absl::Time deadline);
absl::Status WaitWritable(int fd, absl::Time deadline);

// kPermissionDenied, naming the uid, unless the peer of the unix socket `fd` (lent) is of our uid or root.
absl::Status CheckPeer(int fd);

// "process 1234": who connected the unix socket `fd` (lent), or listened at its other end; for errors.
std::string DescribePeer(int fd);

}  // namespace cpr

#endif  // LIBCPR_PRESERVE_SOCKET_H_
