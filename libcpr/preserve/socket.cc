#include "libcpr/preserve/socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/unix_address.h"

namespace cpr {
namespace {

// Room for the largest set of rights. The kernel merges what a peer sends in several headers into one.
struct alignas(cmsghdr) ControlBuffer {
  std::array<char, CMSG_SPACE(PacketSocket::kMaxFds * sizeof(int))> bytes;
};

// Everything that `message` brought, owned.
std::vector<UniqueFd> TakeRights(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

void PutRights(msghdr& message, ControlBuffer& control, absl::Span<const int> fds) {
  control.bytes.fill(0);
  message.msg_control = control.bytes.data();
  message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
}

absl::Status CheckType(int fd) {
  sockaddr_un address;
  socklen_t size = sizeof(address);
  int type = 0;
  socklen_t type_size = sizeof(type);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 || address.sun_family != AF_UNIX ||
      ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) != 0 || type != SOCK_SEQPACKET) {
    return absl::InvalidArgumentError(absl::StrCat("fd ", fd, " is not a unix SOCK_SEQPACKET socket"));
  }
  return absl::OkStatus();
}

absl::Status Wait(int fd, short events, absl::Time deadline) {  // NOLINT: poll's own type
  for (;;) {
    const absl::Duration left = std::max(deadline - absl::Now(), absl::ZeroDuration());
    pollfd poll_fd = {.fd = fd, .events = events, .revents = 0};
    const int64_t left_ms = absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)));
    const int n = ::poll(&poll_fd, 1, static_cast<int>(std::min<int64_t>(left_ms, INT_MAX)));
    if (n > 0) return absl::OkStatus();
    if (n < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (n == 0 && absl::Now() >= deadline) return absl::DeadlineExceededError("the peer did not answer in time");
  }
}

}  // namespace

absl::Status CheckPeer(int fd) {
  ucred peer;
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return ErrnoStatus(errno, "SO_PEERCRED");
  if (peer.uid == 0 || peer.uid == ::geteuid()) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("peer has uid ", peer.uid, ", ours is ", ::geteuid()));
}

std::string DescribePeer(int fd) {
  ucred peer;
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return "process unknown";
  return absl::StrCat("process ", peer.pid);
}

absl::StatusOr<PacketSocket> PacketSocket::Listen(const std::string& path) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, internal::ListenAtPath(path, SOCK_SEQPACKET));
  return PacketSocket(std::move(fd));
}

absl::StatusOr<PacketSocket> PacketSocket::Accept() const {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, internal::AcceptNonblocking(fd_.get()));
  CPR_RETURN_IF_ERROR(CheckPeer(fd.get()));
  return PacketSocket(std::move(fd));
}

absl::StatusOr<PacketSocket> PacketSocket::Connect(const std::string& path) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, internal::ConnectToPath(path, SOCK_SEQPACKET));
  CPR_RETURN_IF_ERROR(CheckPeer(fd.get()));
  return PacketSocket(std::move(fd));
}

absl::StatusOr<PacketSocket> PacketSocket::Adopt(UniqueFd fd) {
  CPR_RETURN_IF_ERROR(CheckType(fd.get()));
  CPR_RETURN_IF_ERROR(SetCloexec(fd.get(), true));
  CPR_RETURN_IF_ERROR(SetNonblocking(fd.get(), true));
  return PacketSocket(std::move(fd));
}

absl::StatusOr<std::pair<PacketSocket, PacketSocket>> PacketSocket::CreatePair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) {
    return ErrnoStatus(errno, "socketpair");
  }
  return std::make_pair(PacketSocket(UniqueFd(fds[0])), PacketSocket(UniqueFd(fds[1])));
}

absl::Status PacketSocket::Send(absl::string_view bytes, absl::Span<const int> fds) {
  if (bytes.empty()) return absl::InvalidArgumentError("an empty message would read as the end");
  if (bytes.size() > kMaxBytes || fds.size() > kMaxFds) {
    return absl::InvalidArgumentError(absl::StrCat("message of ", bytes.size(), " bytes and ", fds.size(),
                                                   " fds, the limits are ", kMaxBytes, " and ", kMaxFds));
  }
  iovec data = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
  ControlBuffer control;
  if (!fds.empty()) PutRights(message, control, fds);
  ssize_t n;
  do {
    n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return absl::OkStatus();
  if (errno == EAGAIN) return absl::UnavailableError("the peer's queue is full");
  if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) return absl::FailedPreconditionError("peer is gone");
  return ErrnoStatus(errno, "sendmsg");
}

absl::StatusOr<Packet> PacketSocket::Receive() {
  Packet packet;
  packet.bytes.resize(kMaxBytes);
  iovec data = {.iov_base = packet.bytes.data(), .iov_len = packet.bytes.size()};
  ControlBuffer control;
  msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes.data(), .msg_controllen = sizeof(control.bytes)};
  ssize_t n;
  do {
    n = ::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    // The kernel reports once that the peer closed with words of ours unread; what it sent before can still be read.
  } while (n < 0 && (errno == EINTR || errno == ECONNRESET));
  if (n < 0 && errno == EAGAIN) return absl::UnavailableError("no message yet");
  if (n < 0) return ErrnoStatus(errno, "recvmsg");
  packet.fds = TakeRights(message);  // nothing may leak from here on
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::ResourceExhaustedError("a message or its fds were truncated");
  }
  packet.bytes.resize(static_cast<size_t>(n));
  packet.eof = n == 0;
  if (packet.eof) packet.fds.clear();
  return packet;
}

absl::Status WaitReadable(int fd, absl::Time deadline) { return Wait(fd, POLLIN, deadline); }
absl::Status WaitWritable(int fd, absl::Time deadline) { return Wait(fd, POLLOUT, deadline); }

}  // namespace cpr
