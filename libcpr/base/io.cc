#include "libcpr/base/io.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

// Calls `step(done)` until `size_bytes` are done; `step` returns what read(2) and write(2) return.
template <typename Step>
absl::Status Repeat(size_t size_bytes, absl::string_view what, Step step) {
  for (size_t done = 0; done < size_bytes;) {
    const ssize_t n = step(done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, what);
    if (n == 0) return absl::DataLossError(absl::StrCat(what, ": ended after ", done, " of ", size_bytes, " bytes"));
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status SetFlag(int fd, int get, int set, int flag, bool on, absl::string_view what) {
  const int flags = ::fcntl(fd, get);
  if (flags < 0) return ErrnoStatus(errno, what);
  const int wanted = on ? flags | flag : flags & ~flag;
  if (wanted != flags && ::fcntl(fd, set, wanted) < 0) return ErrnoStatus(errno, what);
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteAll(int fd, absl::string_view data) {
  return Repeat(data.size(), "write", [&](size_t done) { return ::write(fd, data.data() + done, data.size() - done); });
}

ssize_t WriteWithoutSignal(int fd, absl::string_view data) {
  sigset_t pipe, before, pending;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  ::sigpending(&pending);
  ::pthread_sigmask(SIG_BLOCK, &pipe, &before);
  const ssize_t n = ::write(fd, data.data(), data.size());
  const int err = errno;
  // The signal that this write caused waits for this thread: it is taken away. One that waited before is another's.
  const timespec at_once = {};
  if (n < 0 && err == EPIPE && sigismember(&pending, SIGPIPE) == 0) {
    while (::sigtimedwait(&pipe, nullptr, &at_once) < 0 && errno == EINTR) {
    }
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = err;
  return n;
}

absl::Status PwriteAll(int fd, absl::string_view data, uint64_t offset_bytes) {
  return Repeat(data.size(), "pwrite", [&](size_t done) {
    return ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset_bytes + done));
  });
}

absl::Status PreadAll(int fd, char* data, size_t size_bytes, uint64_t offset_bytes) {
  return Repeat(size_bytes, "pread", [&](size_t done) {
    return ::pread(fd, data + done, size_bytes - done, static_cast<off_t>(offset_bytes + done));
  });
}

absl::StatusOr<std::string> ReadToEnd(int fd, uint64_t limit_bytes) {
  constexpr size_t kStepBytes = 64 << 10;
  std::string all;
  for (;;) {
    const size_t have = all.size();
    all.resize(have + kStepBytes);
    const ssize_t n = ::read(fd, all.data() + have, kStepBytes);
    const int err = errno;
    all.resize(have + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n == 0) return all;
    if (n < 0 && err != EINTR) return ErrnoStatus(err, "read");
    if (all.size() > limit_bytes)
      return absl::ResourceExhaustedError(absl::StrCat("more than ", limit_bytes, " bytes"));
  }
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, unsigned mode) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.ok()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  return fd;
}

absl::StatusOr<UniqueFd> DupFd(int fd) {
  constexpr int kFirstNumber = 3;  // never stdio, even where that is closed
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstNumber));
  if (!copy.ok()) return ErrnoStatus(errno, absl::StrCat("dup of fd ", fd));
  return copy;
}

absl::Status SetCloexec(int fd, bool on) { return SetFlag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, on, "fcntl FD_CLOEXEC"); }

absl::Status SetNonblocking(int fd, bool on) {
  return SetFlag(fd, F_GETFL, F_SETFL, O_NONBLOCK, on, "fcntl O_NONBLOCK");
}

}  // namespace cpr
