#include "vmm/chardev/output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace cpr {
namespace {

// What a descriptor that poll calls writable takes without waiting: PIPE_BUF for pipes, less for terminals.
constexpr size_t kSafeChunkBytes = 256;

}  // namespace

void Output::Attach(UniqueFd fd) {
  fd_ = std::move(fd);
  struct stat info = {};
  ::fstat(fd_.get(), &info);
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  if (S_ISSOCK(info.st_mode)) {
    way_ = Way::kSend;
  } else {
    way_ = S_ISREG(info.st_mode) || (flags & O_NONBLOCK) != 0 ? Way::kWrite : Way::kPollThenWrite;
  }
}

void Output::Detach() {
  fd_.Reset();
  Drop(buffer_.size());
  buffer_.clear();
}

void Output::Queue(absl::string_view data) {
  const size_t room = fd_.ok() ? kLimitBytes - std::min(buffer_.size(), kLimitBytes) : 0;
  const size_t kept = std::min(room, data.size());
  buffer_.append(data.data(), kept);
  Drop(data.size() - kept);
}

ssize_t Output::WriteSome(absl::string_view data) {
  switch (way_) {
    case Way::kSend:
      return ::send(fd_.get(), data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    case Way::kWrite:
      return ::write(fd_.get(), data.data(), data.size());
    case Way::kPollThenWrite: {
      pollfd poll = {fd_.get(), POLLOUT, 0};
      if (::poll(&poll, 1, 0) == 1) return ::write(fd_.get(), data.data(), std::min(data.size(), kSafeChunkBytes));
      errno = EAGAIN;
      return -1;
    }
  }
  return -1;
}

Output::Result Output::Flush() {
  size_t done = 0;
  Result result = Result::kDone;
  while (done < buffer_.size()) {
    const ssize_t n = WriteSome(absl::string_view(buffer_).substr(done));
    if (n >= 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      const bool later = errno == EAGAIN || errno == ENOSPC || errno == EDQUOT;
      result = later ? Result::kBlocked : Result::kBroken;
      break;
    }
  }
  if (result == Result::kBroken) {
    Drop(buffer_.size() - done);
    done = buffer_.size();
  }
  buffer_.erase(0, done);
  return result;
}

void Output::Restore(absl::string_view unwritten, uint64_t dropped_bytes) {
  buffer_.assign(unwritten.data(), unwritten.size());
  dropped_bytes_ = dropped_bytes;
}

}  // namespace cpr
