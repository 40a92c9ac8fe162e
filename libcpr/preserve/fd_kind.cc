#include "libcpr/preserve/fd_kind.h"

#include <linux/major.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

struct Description {
  struct stat st;
  std::string link;  // what /proc/self/fd says: a path, or "anon_inode:[eventfd]"
};

absl::StatusOr<Description> Describe(int fd) {
  Description description;
  if (::fstat(fd, &description.st) != 0) return ErrnoStatus(errno, absl::StrCat("fstat of fd ", fd));
  CPR_ASSIGN_OR_RETURN(description.link, FdTarget(fd));
  return description;
}

absl::string_view LastPart(absl::string_view path) { return path.substr(path.rfind('/') + 1); }

bool IsListening(int fd) {
  int listening = 0;
  socklen_t size = sizeof(listening);
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening != 0;
}

bool IsCharDevice(const Description& d) { return S_ISCHR(d.st.st_mode); }

// Minor numbers of the misc major that the kernel fixed for good (linux/miscdevice.h).
bool IsMisc(const Description& d, unsigned minor_number) {
  return IsCharDevice(d) && d.st.st_rdev == makedev(MISC_MAJOR, minor_number);
}
constexpr unsigned kTunMinor = 200;
constexpr unsigned kVfioContainerMinor = 196;

// A memfd that Live Update has brought over from another kernel has lost its name (mm/memfd_luo.c).
bool IsNamelessMemfd(const Description& d) { return d.st.st_nlink == 0 && d.link == "/ (deleted)"; }

bool IsMemfd(int, const Description& d) {
  return S_ISREG(d.st.st_mode) &&
         (absl::StartsWith(d.link, "/memfd:") || absl::StartsWith(d.link, "/anon_hugepage") || IsNamelessMemfd(d));
}
bool IsFile(int fd, const Description& d) {
  return (S_ISREG(d.st.st_mode) && !IsMemfd(fd, d)) || S_ISBLK(d.st.st_mode);
}
bool IsEventfd(int, const Description& d) { return d.link == "anon_inode:[eventfd]"; }
bool IsTap(int, const Description& d) { return IsMisc(d, kTunMinor); }
bool IsVhost(int, const Description& d) { return IsCharDevice(d) && absl::StartsWith(LastPart(d.link), "vhost-"); }
bool IsVfioDevice(int, const Description& d) {
  return d.link == "anon_inode:[vfio-device]" ||
         (IsCharDevice(d) && absl::StrContains(d.link, "/devices/") && absl::StartsWith(LastPart(d.link), "vfio"));
}
bool IsVfioContainer(int, const Description& d) { return IsMisc(d, kVfioContainerMinor); }
bool IsVfioGroup(int, const Description& d) {
  const absl::string_view name = LastPart(d.link);
  return IsCharDevice(d) && absl::StrContains(d.link, "/vfio/") && !name.empty() && std::isdigit(name.back()) != 0 &&
         (std::isdigit(name.front()) != 0 || absl::StartsWith(name, "noiommu-"));
}
bool IsIommufd(int, const Description& d) { return IsCharDevice(d) && LastPart(d.link) == "iommu"; }
bool IsSocket(int fd, const Description& d) { return S_ISSOCK(d.st.st_mode) && !IsListening(fd); }
bool IsListener(int fd, const Description& d) { return S_ISSOCK(d.st.st_mode) && IsListening(fd); }
bool IsTty(int fd, const Description& d) { return IsCharDevice(d) && ::isatty(fd) == 1; }
bool IsPipe(int, const Description& d) { return S_ISFIFO(d.st.st_mode); }
bool IsAnyCharDevice(int, const Description& d) { return IsCharDevice(d); }

struct KindRow {
  FdKind kind;
  absl::string_view name;
  bool (*is)(int fd, const Description& description);
};
constexpr KindRow kKinds[] = {{FdKind::kMemfd, "memfd", &IsMemfd},
                              {FdKind::kFile, "file", &IsFile},
                              {FdKind::kEventfd, "eventfd", &IsEventfd},
                              {FdKind::kTap, "tap", &IsTap},
                              {FdKind::kVhost, "vhost", &IsVhost},
                              {FdKind::kVfioDevice, "vfio-device", &IsVfioDevice},
                              {FdKind::kVfioGroup, "vfio-group", &IsVfioGroup},
                              {FdKind::kVfioContainer, "vfio-container", &IsVfioContainer},
                              {FdKind::kIommufd, "iommufd", &IsIommufd},
                              {FdKind::kSocket, "socket", &IsSocket},
                              {FdKind::kListener, "listener", &IsListener},
                              {FdKind::kTty, "tty", &IsTty},
                              {FdKind::kPipe, "pipe", &IsPipe},
                              {FdKind::kCharDevice, "char-device", &IsAnyCharDevice}};

const KindRow* RowOf(FdKind kind) {
  const auto* row =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const KindRow& r) { return r.kind == kind; });
  return row == std::end(kKinds) ? nullptr : row;
}

}  // namespace

absl::string_view FdKindName(FdKind kind) {
  const KindRow* row = RowOf(kind);
  return row == nullptr ? "unspecified" : row->name;
}

absl::Status CheckFdKind(int fd, FdKind kind) {
  const KindRow* row = RowOf(kind);
  if (row == nullptr) return absl::InvalidArgumentError(absl::StrCat("unknown fd kind ", static_cast<int>(kind)));
  CPR_ASSIGN_OR_RETURN(const Description description, Describe(fd));
  if (row->is(fd, description)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("is not a ", row->name, " but ", description.link));
}

absl::StatusOr<std::string> FdTarget(int fd) {
  char link[4096];
  const ssize_t n = ::readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), link, sizeof(link));
  if (n < 0) return ErrnoStatus(errno, absl::StrCat("readlink of /proc/self/fd/", fd));
  return std::string(link, static_cast<size_t>(n));
}

}  // namespace cpr
