#include "vmm/app/named_fds.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

absl::Status CheckStream(int fd, NamedFds::Use use) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return ErrnoStatus(errno, "fstat");
  int type = SOCK_STREAM;
  socklen_t size = sizeof(type);
  if (S_ISSOCK(info.st_mode)) ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
  if (!S_ISREG(info.st_mode) && !S_ISFIFO(info.st_mode) && !(S_ISSOCK(info.st_mode) && type == SOCK_STREAM)) {
    return absl::InvalidArgumentError("neither a file nor a pipe nor a stream socket");
  }
  const int access = ::fcntl(fd, F_GETFL) & O_ACCMODE;
  if (access == O_RDWR || access == (use == NamedFds::Use::kRead ? O_RDONLY : O_WRONLY)) return absl::OkStatus();
  return absl::InvalidArgumentError(use == NamedFds::Use::kRead ? "not open for reading" : "not open for writing");
}

bool IsRegular(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
}

}  // namespace

absl::StatusOr<int> NamedFds::Find(const std::string& name) const {
  const auto found = fds_.find(name);
  if (found != fds_.end()) return found->second.get();
  int number = -1;
  if (absl::SimpleAtoi(name, &number) && number >= 0) return number;
  return absl::NotFoundError(absl::StrCat("File descriptor named '", name, "' has not been found"));
}

absl::StatusOr<UniqueFd> NamedFds::TakeStream(const std::string& name, Use use) {
  CPR_ASSIGN_OR_RETURN(const int lent, Find(name));
  CPR_RETURN_IF_ERROR(Annotate(CheckStream(lent, use), absl::StrCat("fd:", name)));
  UniqueFd fd;
  if (const auto found = fds_.find(name); found != fds_.end()) {
    fd = std::move(found->second);
    fds_.erase(found);
  } else {
    CPR_ASSIGN_OR_RETURN(fd, DupFd(lent));
  }
  if (!IsRegular(fd.get())) CPR_RETURN_IF_ERROR(SetNonblocking(fd.get(), true));
  return fd;
}

absl::StatusOr<UniqueFd> NamedFds::TakePipeOrSocket(const std::string& name, Use use) {
  CPR_ASSIGN_OR_RETURN(const int lent, Find(name));
  if (IsRegular(lent)) return absl::InvalidArgumentError("Migration requires streamable transport (eg unix)");
  return TakeStream(name, use);
}

}  // namespace cpr
