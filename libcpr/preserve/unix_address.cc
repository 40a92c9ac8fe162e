#include "libcpr/preserve/unix_address.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr::internal {
namespace {

constexpr int kBacklog = 8;

absl::StatusOr<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address = {.sun_family = AF_UNIX};
  if (path.empty() || path.size() >= sizeof(address.sun_path) || path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("unix socket path '", path, "' must have 1 to ", sizeof(address.sun_path) - 1, " bytes"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> NewSocket(int type) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return ErrnoStatus(errno, "socket");
  return fd;
}

int Bind(int fd, const sockaddr_un& address) {
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}
int Connect(int fd, const sockaddr_un& address) {
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// True if a socket of any type has `address`. A datagram socket asks: a listener of another type refuses it without
// ever seeing a connection.
bool SomebodyListens(const sockaddr_un& address) {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return Connect(probe.get(), address) == 0 || errno != ECONNREFUSED;
}

absl::Status RemoveIfStale(const sockaddr_un& address) {
  const absl::string_view path = address.sun_path;
  struct stat st;
  if (::lstat(address.sun_path, &st) != 0) return ErrnoStatus(errno, absl::StrCat("lstat of ", path));
  if (!S_ISSOCK(st.st_mode)) return absl::AlreadyExistsError(absl::StrCat(path, " exists and is not a socket"));
  if (SomebodyListens(address)) return absl::AlreadyExistsError(absl::StrCat("somebody listens on ", path, " already"));
  if (::unlink(address.sun_path) != 0) return ErrnoStatus(errno, absl::StrCat("unlink of ", path));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> ListenAtPath(const std::string& path, int type) {
  CPR_ASSIGN_OR_RETURN(const sockaddr_un address, Address(path));
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(type));
  // The file is made with the mode of the socket's inode (less umask), so that it never is open to others.
  if (::fchmod(fd.get(), 0600) != 0) return ErrnoStatus(errno, "fchmod of a unix socket");
  int bound = Bind(fd.get(), address);
  if (bound != 0 && errno == EADDRINUSE) {
    CPR_RETURN_IF_ERROR(RemoveIfStale(address));
    bound = Bind(fd.get(), address);
  }
  if (bound != 0) return ErrnoStatus(errno, absl::StrCat("bind to ", path));
  if (::listen(fd.get(), kBacklog) != 0) return ErrnoStatus(errno, absl::StrCat("listen on ", path));
  return fd;
}

absl::StatusOr<UniqueFd> ConnectToPath(const std::string& path, int type) {
  CPR_ASSIGN_OR_RETURN(const sockaddr_un address, Address(path));
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(type));
  if (Connect(fd.get(), address) == 0) return fd;
  const int err = errno;
  const absl::Status failed = ErrnoStatus(err, absl::StrCat("connect to ", path));
  const bool try_again = err == ECONNREFUSED || err == EAGAIN || err == ENOENT;
  return try_again ? absl::UnavailableError(failed.message()) : failed;
}

absl::StatusOr<UniqueFd> AcceptNonblocking(int listener) {
  UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.ok()) return fd;
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return absl::UnavailableError("nobody connects yet");
  return ErrnoStatus(errno, "accept");
}

}  // namespace cpr::internal
