#include "vmm/chardev/endpoints.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/fd_kind.h"
#include "libcpr/preserve/stream_socket.h"

namespace cpr {
namespace {

using Kind = ChardevConfig::Kind;
using FdMap = std::map<std::string, UniqueFd>;

UniqueFd Take(FdMap& fds, const char* name) {
  const auto node = fds.extract(name);
  return node.empty() ? UniqueFd() : std::move(node.mapped());
}

absl::StatusOr<UniqueFd> TakeRequired(FdMap& fds, const char* name) {
  UniqueFd fd = Take(fds, name);
  if (!fd.ok()) return absl::FailedPreconditionError(absl::StrCat("fd '", name, "' is missing"));
  return fd;
}

// Both directions through one description.
absl::Status SetStream(UniqueFd stream, Endpoints& e) {
  CPR_ASSIGN_OR_RETURN(e.out, DupFd(stream.get()));
  e.in = std::move(stream);
  return absl::OkStatus();
}

// Our own non-blocking description of what `fd` has open, so that the flags of the one we share with the shell stay
// as they are, whatever becomes of us. Sockets cannot be reopened and regular files must not be (the offset is
// shared with others): those are duplicated, Output and the reader cope with them.
absl::StatusOr<UniqueFd> OwnStdio(int fd, int access) {
  struct stat info;
  if (::fstat(fd, &info) < 0) return ErrnoStatus(errno, absl::StrCat("fstat stdio fd ", fd));
  if (S_ISCHR(info.st_mode) || S_ISFIFO(info.st_mode)) {
    const std::string path = absl::StrCat("/proc/self/fd/", fd);
    UniqueFd own(::open(path.c_str(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (own.ok()) return own;
  }
  return DupFd(fd);
}

absl::StatusOr<Endpoints> OpenStdio() {
  Endpoints e;
  CPR_ASSIGN_OR_RETURN(e.in, OwnStdio(STDIN_FILENO, O_RDONLY));
  CPR_ASSIGN_OR_RETURN(e.out, OwnStdio(STDOUT_FILENO, O_WRONLY));
  e.tty = MakeTtyRaw(STDIN_FILENO);
  e.shown = "stdio";
  return e;
}

absl::StatusOr<Endpoints> OpenOutputFile(const ChardevConfig& config) {
  Endpoints e;
  // O_NONBLOCK: a fifo without a reader is an error rather than a wait; regular files do not know it.
  const int flags = O_WRONLY | O_CREAT | O_NONBLOCK | (config.append ? O_APPEND : O_TRUNC);
  CPR_ASSIGN_OR_RETURN(e.out, OpenFile(config.path, flags, 0644));
  e.shown = absl::StrCat("file:", config.path);
  return e;
}

absl::StatusOr<Endpoints> AdoptOutputFile(const ChardevConfig& config, FdMap& fds) {
  Endpoints e;
  CPR_ASSIGN_OR_RETURN(e.out, TakeRequired(fds, kFileFd));
  if ((::fcntl(e.out.get(), F_GETFL) & O_ACCMODE) != O_WRONLY) {
    return absl::FailedPreconditionError("fd 'file' is not open for writing only");
  }
  e.shown = absl::StrCat("file:", config.path);
  return e;
}

absl::Status WaitForClient(Endpoints& e) {
  for (;;) {
    pollfd poll = {e.listener.get(), POLLIN, 0};
    if (::poll(&poll, 1, -1) < 0 && errno != EINTR) return ErrnoStatus(errno, "poll for a client");
    absl::StatusOr<UniqueFd> client = AcceptStream(e.listener.get());
    if (client.ok()) return SetStream(*std::move(client), e);
    // A client that left again or may not come is no reason to give up.
    if (!absl::IsUnavailable(client.status()) && !absl::IsPermissionDenied(client.status())) return client.status();
  }
}

std::string ShownSocket(const ChardevConfig& config) {
  return absl::StrCat("unix:", config.path, config.server ? ",server=on" : "");
}

absl::StatusOr<Endpoints> OpenSocket(const ChardevConfig& config) {
  Endpoints e;
  e.shown = ShownSocket(config);
  if (config.server) {
    CPR_ASSIGN_OR_RETURN(e.listener, ListenUnixStream(config.path));
    if (config.wait) CPR_RETURN_IF_ERROR(WaitForClient(e));
  } else {
    CPR_ASSIGN_OR_RETURN(UniqueFd client, ConnectUnixStream(config.path));
    CPR_RETURN_IF_ERROR(SetStream(std::move(client), e));
  }
  return e;
}

absl::StatusOr<Endpoints> AdoptSocket(const ChardevConfig& config, FdMap& fds) {
  Endpoints e;
  e.shown = ShownSocket(config);
  if (config.server) {
    CPR_ASSIGN_OR_RETURN(e.listener, TakeRequired(fds, kListenerFd));
    CPR_RETURN_IF_ERROR(Annotate(CheckFdKind(e.listener.get(), FdKind::kListener), kListenerFd));
  }
  if (UniqueFd client = Take(fds, kClientFd); client.ok()) {
    CPR_RETURN_IF_ERROR(Annotate(CheckFdKind(client.get(), FdKind::kSocket), kClientFd));
    CPR_RETURN_IF_ERROR(SetStream(std::move(client), e));
  }
  return e;
}

// The other end by number: no path that another mount namespace might have replaced.
absl::Status FinishPty(UniqueFd master, Endpoints& e) {
  CPR_ASSIGN_OR_RETURN(const int slave, CPR_IOCTL(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  e.pty_slave.Reset(slave);
  unsigned number = 0;
  CPR_RETURN_IF_ERROR(CPR_IOCTL(master.get(), TIOCGPTN, &number).status());
  e.shown = absl::StrCat("pty:/dev/pts/", number);
  return SetStream(std::move(master), e);
}

absl::StatusOr<Endpoints> OpenPty() {
  Endpoints e;
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  if (!master.ok()) return ErrnoStatus(errno, "posix_openpt");
  if (::grantpt(master.get()) < 0 || ::unlockpt(master.get()) < 0) return ErrnoStatus(errno, "unlockpt");
  CPR_RETURN_IF_ERROR(FinishPty(std::move(master), e));
  termios tty;
  if (::tcgetattr(e.pty_slave.get(), &tty) < 0) return ErrnoStatus(errno, "tcgetattr pty");
  ::cfmakeraw(&tty);
  if (::tcsetattr(e.pty_slave.get(), TCSANOW, &tty) < 0) return ErrnoStatus(errno, "tcsetattr pty");
  return e;
}

absl::StatusOr<Endpoints> AdoptPty(FdMap& fds) {
  Endpoints e;
  CPR_ASSIGN_OR_RETURN(UniqueFd master, TakeRequired(fds, kPtyFd));
  if (const absl::Status s = FinishPty(std::move(master), e); !s.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("fd 'pty' is no pty's master: ", s.message()));
  }
  return e;
}

absl::StatusOr<Endpoints> AdoptKind(const ChardevConfig& config, FdMap& fds) {
  switch (config.kind) {
    case Kind::kFile:
      return AdoptOutputFile(config, fds);
    case Kind::kSocket:
      return AdoptSocket(config, fds);
    case Kind::kPty:
      return AdoptPty(fds);
    default:
      return OpenEndpoints(config);  // null and stdio have nothing to take over
  }
}

}  // namespace

absl::StatusOr<Endpoints> OpenEndpoints(const ChardevConfig& config) {
  switch (config.kind) {
    case Kind::kNull: {
      Endpoints e;
      e.shown = "null";
      return e;
    }
    case Kind::kStdio:
      return OpenStdio();
    case Kind::kFile:
      return OpenOutputFile(config);
    case Kind::kSocket:
      return OpenSocket(config);
    case Kind::kPty:
      return OpenPty();
    case Kind::kUnspecified:
      break;
  }
  return absl::InvalidArgumentError("chardev without a kind");
}

absl::StatusOr<Endpoints> AdoptEndpoints(const ChardevConfig& config, std::map<std::string, UniqueFd> fds) {
  CPR_ASSIGN_OR_RETURN(Endpoints e, AdoptKind(config, fds));
  if (!fds.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("fd '", fds.begin()->first, "' does not belong to ", e.shown));
  }
  return e;
}

}  // namespace cpr
