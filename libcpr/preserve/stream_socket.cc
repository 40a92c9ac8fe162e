#include "libcpr/preserve/stream_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/preserve/unix_address.h"

namespace cpr {
namespace {

constexpr int kBacklog = 8;

struct InetAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;
  int family = AF_UNSPEC;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

bool ParseV4(const std::string& host, uint16_t port, InetAddress* address) {
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address->storage);
  // Not inet_pton: people write "0" for any address, as they do for QEMU.
  if (::inet_aton(host.c_str(), &v4->sin_addr) == 0) return false;
  v4->sin_family = AF_INET;
  v4->sin_port = htons(port);
  address->size = sizeof(*v4);
  address->family = AF_INET;
  return true;
}

bool ParseV6(const std::string& host, uint16_t port, InetAddress* address) {
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address->storage);
  if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) != 1) return false;
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  address->size = sizeof(*v6);
  address->family = AF_INET6;
  return true;
}

absl::StatusOr<InetAddress> Parse(std::string host, uint16_t port, const char* if_empty) {
  if (port == 0) return absl::InvalidArgumentError("port 0: the peer could not know which one it became");
  if (host.empty()) host = if_empty;
  if (host == "localhost") host = "127.0.0.1";
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  InetAddress address;
  if (ParseV4(host, port, &address) || ParseV6(host, port, &address)) return address;
  return absl::InvalidArgumentError(absl::StrCat("'", host, "' is not a numeric address or localhost"));
}

absl::StatusOr<UniqueFd> NewSocket(int family) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return ErrnoStatus(errno, "socket");
  return fd;
}

void SetOption(int fd, int level, int option) {
  const int on = 1;
  ::setsockopt(fd, level, option, &on, sizeof(on));  // a wish: all works without it
}

bool IsUnix(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 && address.ss_family == AF_UNIX;
}

}  // namespace

absl::StatusOr<UniqueFd> ListenUnixStream(const std::string& path) { return internal::ListenAtPath(path, SOCK_STREAM); }

absl::StatusOr<UniqueFd> ListenTcp(const std::string& host, uint16_t port) {
  CPR_ASSIGN_OR_RETURN(const InetAddress address, Parse(host, port, "0.0.0.0"));
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(address.family));
  SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR);
  if (::bind(fd.get(), address.get(), address.size) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    return ErrnoStatus(errno, absl::StrCat("listen on ", host, ":", port));
  }
  return fd;
}

absl::StatusOr<UniqueFd> AcceptStream(int listener) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, internal::AcceptNonblocking(listener));
  if (IsUnix(fd.get())) {
    CPR_RETURN_IF_ERROR(CheckPeer(fd.get()));
  } else {
    SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY);
  }
  return fd;
}

absl::StatusOr<UniqueFd> ConnectUnixStream(const std::string& path) {
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, internal::ConnectToPath(path, SOCK_STREAM));
  CPR_RETURN_IF_ERROR(CheckPeer(fd.get()));
  return fd;
}

absl::StatusOr<UniqueFd> ConnectTcp(const std::string& host, uint16_t port) {
  CPR_ASSIGN_OR_RETURN(const InetAddress address, Parse(host, port, "127.0.0.1"));
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(address.family));
  SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY);
  if (::connect(fd.get(), address.get(), address.size) == 0 || errno == EINPROGRESS) return fd;
  return ErrnoStatus(errno, absl::StrCat("connect to ", host, ":", port));
}

absl::Status FinishConnect(int fd) {
  int err = 0;
  socklen_t size = sizeof(err);
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) != 0) {
    // A pipe is connected from the start.
    return errno == ENOTSOCK ? absl::OkStatus() : ErrnoStatus(errno, "SO_ERROR");
  }
  if (err == ECONNREFUSED) return absl::UnavailableError("connect: nobody listens there");
  return err == 0 ? absl::OkStatus() : ErrnoStatus(err, "connect");
}

}  // namespace cpr
