#include "libcpr/preserve/live_update.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/fd_kind.h"
#include "libcpr/preserve/live_update_uapi.h"

namespace cpr {
namespace {

static_assert(LiveUpdate::kMaxNameBytes == kLiveUpdateNameBytes - 1);

std::string SessionText(absl::string_view name) { return absl::StrCat("Live Update session '", name, "'"); }

// Its number says little to whoever reads the error.
std::string FdText(int fd) { return absl::StrCat("fd ", fd, " (", FdTarget(fd).value_or("not open"), ")"); }

absl::Status CheckName(absl::string_view name) {
  // Early kernels cut a longer name short and take an empty one.
  if (!name.empty() && name.size() <= LiveUpdate::kMaxNameBytes && !absl::StrContains(name, '\0')) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(SessionText(name), ": the name must have 1 to ",
                                                 LiveUpdate::kMaxNameBytes, " bytes, none of them 0"));
}

}  // namespace

LiveUpdateSession::LiveUpdateSession(UniqueFd fd, std::string name, IoctlFunction ioctl)
    : fd_(std::move(fd)), name_(std::move(name)), ioctl_(KernelsUnless(std::move(ioctl))) {}

LiveUpdateSession LiveUpdateSession::Adopt(UniqueFd fd, std::string name, IoctlFunction ioctl) {
  return LiveUpdateSession(std::move(fd), std::move(name), std::move(ioctl));
}

std::string LiveUpdateSession::Text() const { return SessionText(name_); }

absl::Status LiveUpdateSession::Call(unsigned long request, absl::string_view request_name, void* argument) const {
  if (ioctl_(fd_.get(), request, argument) >= 0) return absl::OkStatus();
  return ErrnoStatus(errno, request_name);
}

absl::Status LiveUpdateSession::PreserveFd(int fd, uint64_t token) {
  LiveUpdateFd preserve = {.size = sizeof(preserve), .fd = fd, .token = token};
  const absl::Status status = Call(kLiveUpdatePreserveFd, "LIVEUPDATE_SESSION_PRESERVE_FD", &preserve);
  if (StatusErrno(status) == ENOENT) {
    return absl::UnimplementedError(absl::StrCat(Text(), ": the host's kernel cannot preserve ", FdText(fd),
                                                 "; it can memfds that are not of huge pages"));
  }
  return Annotate(status, absl::StrCat(Text(), ": ", FdText(fd), ", token ", token));
}

absl::StatusOr<UniqueFd> LiveUpdateSession::RetrieveFd(uint64_t token) {
  LiveUpdateFd retrieve = {.size = sizeof(retrieve), .fd = -1, .token = token};
  const absl::Status status = Call(kLiveUpdateRetrieveFd, "LIVEUPDATE_SESSION_RETRIEVE_FD", &retrieve);
  if (status.ok()) return UniqueFd(retrieve.fd);
  return Annotate(status, absl::StrCat(Text(), ": token ", token));
}

absl::Status LiveUpdateSession::Finish() {
  LiveUpdateFinish finish = {.size = sizeof(finish), .reserved = 0};
  return Annotate(Call(kLiveUpdateFinish, "LIVEUPDATE_SESSION_FINISH", &finish), Text());
}

LiveUpdate::LiveUpdate(UniqueFd fd, IoctlFunction ioctl)
    : fd_(std::move(fd)), ioctl_(KernelsUnless(std::move(ioctl))) {}

LiveUpdate LiveUpdate::Adopt(UniqueFd fd, IoctlFunction ioctl) { return LiveUpdate(std::move(fd), std::move(ioctl)); }

absl::StatusOr<LiveUpdate> LiveUpdate::Open(const std::string& path) {
  absl::StatusOr<UniqueFd> fd = OpenFile(path, O_RDWR);
  if (fd.ok()) return Adopt(*std::move(fd));
  switch (StatusErrno(fd.status())) {
    case ENOENT:
      return absl::UnimplementedError(absl::StrCat("this host has no Live Update (", path,
                                                   "): it needs Linux 6.19, started with kho=on liveupdate=on"));
    case EBUSY:
      return absl::UnavailableError(absl::StrCat(path, ": another program has it open"));
    case EIO:
      return absl::DataLossError(absl::StrCat(path, ": the kernel cannot read what the one before it preserved"));
    default:
      return fd.status();
  }
}

absl::StatusOr<LiveUpdateSession> LiveUpdate::Named(unsigned long request, absl::string_view request_name,
                                                    absl::string_view name) {
  CPR_RETURN_IF_ERROR(CheckName(name));
  LiveUpdateNamed named = {.size = sizeof(named), .fd = -1, .name = {}};
  std::copy(name.begin(), name.end(), named.name);
  if (ioctl_(fd_.get(), request, &named) < 0) return Annotate(ErrnoStatus(errno, request_name), SessionText(name));
  return LiveUpdateSession::Adopt(UniqueFd(named.fd), std::string(name), ioctl_);
}

absl::StatusOr<LiveUpdateSession> LiveUpdate::CreateSession(absl::string_view name) {
  return Named(kLiveUpdateCreateSession, "LIVEUPDATE_IOCTL_CREATE_SESSION", name);
}

absl::StatusOr<LiveUpdateSession> LiveUpdate::RetrieveSession(absl::string_view name) {
  absl::StatusOr<LiveUpdateSession> session =
      Named(kLiveUpdateRetrieveSession, "LIVEUPDATE_IOCTL_RETRIEVE_SESSION", name);
  switch (StatusErrno(session.status())) {
    case ENOENT:
      return absl::NotFoundError(absl::StrCat(SessionText(name), ": the kernel before this one has left none"));
    case EINVAL:
      return absl::FailedPreconditionError(absl::StrCat(SessionText(name), ": it was retrieved already"));
    default:
      return session;
  }
}

}  // namespace cpr
