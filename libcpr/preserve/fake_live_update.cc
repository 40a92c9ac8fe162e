#include "libcpr/preserve/fake_live_update.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "libcpr/base/io.h"

namespace cpr::testing {
namespace {

ino_t InodeOf(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 ? info.st_ino : 0;
}

// What the next kernel makes of a memfd: another one, of the same bytes and seals.
UniqueFd Remade(int fd) {
  struct stat info;
  UniqueFd made(::memfd_create("", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (::fstat(fd, &info) != 0 || ::ftruncate(made.get(), info.st_size) != 0) return UniqueFd();
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  if (!PreadAll(fd, bytes.data(), bytes.size(), 0).ok() || !PwriteAll(made.get(), bytes, 0).ok()) return UniqueFd();
  return ::fcntl(made.get(), F_ADD_SEALS, ::fcntl(fd, F_GET_SEALS)) == 0 ? std::move(made) : UniqueFd();
}

}  // namespace

IoctlFunction FakeLiveUpdate::Ioctl() {
  return [this](int fd, unsigned long request, void* argument) {
    const int error = IsRefused(request) ? error_ : Answer(fd, request, argument);
    errno = error;
    return error == 0 ? 0 : -1;
  };
}

void FakeLiveUpdate::Refuse(unsigned long request, int error, size_t after) {
  refused_ = request;
  error_ = error;
  after_ = after;
}

bool FakeLiveUpdate::IsRefused(unsigned long request) {
  if (error_ == 0 || request != refused_) return false;
  if (after_ == 0) return true;
  --after_;
  return false;
}

// A session's fd is a file of its own here, so that it shows whether it is still open.
bool FakeLiveUpdate::Session::IsOpen() const { return fd >= 0 && InodeOf(fd) == inode; }

void FakeLiveUpdate::Kexec() {
  old_sessions_.clear();
  for (auto& [name, session] : sessions_) {
    if (!session.IsOpen()) continue;
    session.fd = -1;
    for (auto& [token, file] : session.files) file = Remade(file.get());
    old_sessions_[name] = std::move(session);
  }
  sessions_.clear();
}

bool FakeLiveUpdate::Has(const std::string& name) const {
  const auto session = sessions_.find(name);
  return session != sessions_.end() && session->second.IsOpen();
}

FakeLiveUpdate::Session* FakeLiveUpdate::Find(int fd) {
  for (auto* sessions : {&sessions_, &old_sessions_}) {
    for (auto& [name, session] : *sessions) {
      if (session.fd == fd && session.IsOpen()) return &session;
    }
  }
  return nullptr;
}

int FakeLiveUpdate::Answer(int fd, unsigned long request, void* argument) {  // NOLINT(google-runtime-int)
  if (request == kLiveUpdateCreateSession) return Create(*static_cast<LiveUpdateNamed*>(argument));
  if (request == kLiveUpdateRetrieveSession) return Retrieve(*static_cast<LiveUpdateNamed*>(argument));
  Session* const session = Find(fd);
  if (session == nullptr) return EBADF;
  if (request == kLiveUpdatePreserveFd) return Preserve(*session, *static_cast<LiveUpdateFd*>(argument));
  if (request == kLiveUpdateRetrieveFd) return RetrieveFd(*session, *static_cast<LiveUpdateFd*>(argument));
  if (request == kLiveUpdateFinish) return Finish(*session, *static_cast<LiveUpdateFinish*>(argument));
  return EINVAL;
}

int FakeLiveUpdate::Opened(Session& session, int32_t* fd) {
  *fd = session.fd = ::memfd_create("session", MFD_CLOEXEC);
  session.inode = InodeOf(*fd);
  return 0;
}

int FakeLiveUpdate::Create(LiveUpdateNamed& named) {
  if (named.size != sizeof(named) || ::strnlen(named.name, sizeof(named.name)) == sizeof(named.name)) return EINVAL;
  if (Has(named.name)) return EEXIST;
  sessions_.erase(named.name);  // closed
  return Opened(sessions_[named.name], &named.fd);
}

int FakeLiveUpdate::Retrieve(LiveUpdateNamed& named) {
  if (named.size != sizeof(named)) return EINVAL;
  const auto session = old_sessions_.find(named.name);
  if (session == old_sessions_.end()) return ENOENT;
  if (std::exchange(session->second.retrieved, true)) return session->second.IsOpen() ? EINVAL : ENOENT;
  return Opened(session->second, &named.fd);
}

int FakeLiveUpdate::Preserve(Session& session, const LiveUpdateFd& preserve) {
  if (preserve.size != sizeof(preserve) || session.retrieved) return EINVAL;
  if (session.files.count(preserve.token) != 0) return EEXIST;
  if (::fcntl(preserve.fd, F_GETFD) < 0) return EBADF;
  if (::fcntl(preserve.fd, F_GET_SEALS) < 0) return ENOENT;  // it is no memfd
  for (const auto& [token, file] : session.files) {
    if (InodeOf(file.get()) == InodeOf(preserve.fd)) return EBUSY;
  }
  session.files[preserve.token] = UniqueFd(::fcntl(preserve.fd, F_DUPFD_CLOEXEC, 0));
  return 0;
}

int FakeLiveUpdate::RetrieveFd(Session& session, LiveUpdateFd& retrieve) {
  if (retrieve.size != sizeof(retrieve) || !session.retrieved) return EINVAL;
  const auto file = session.files.find(retrieve.token);
  if (file == session.files.end()) return ENOENT;
  retrieve.fd = ::fcntl(file->second.get(), F_DUPFD_CLOEXEC, 0);
  return 0;
}

int FakeLiveUpdate::Finish(Session& session, const LiveUpdateFinish& finish) {
  if (finish.size != sizeof(finish) || finish.reserved != 0 || !session.retrieved) return EINVAL;
  session.files.clear();
  return 0;
}

}  // namespace cpr::testing
