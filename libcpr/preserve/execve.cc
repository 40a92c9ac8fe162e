#include "libcpr/preserve/execve.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr uint32_t kFirstNumber = 3;  // stdio belongs to the program, not to the table

absl::Status CheckNumbers(const v1::ExecManifest& manifest) {
  std::set<uint32_t> seen;
  for (const v1::ExecFd& fd : manifest.fds()) {
    if (fd.number() < kFirstNumber || fd.number() > INT_MAX || !seen.insert(fd.number()).second) {
      return absl::DataLossError(absl::StrCat("exec manifest lists fd number ", fd.number(),
                                              seen.count(fd.number()) != 0 ? " twice" : ", which cannot be"));
    }
  }
  return ValidateFdManifest(manifest.manifest(), static_cast<size_t>(manifest.fds_size()));
}

absl::Status CheckIdentity(const v1::ExecFd& fd) {
  struct stat st;
  if (::fstat(static_cast<int>(fd.number()), &st) != 0) {
    return ErrnoStatus(errno, absl::StrCat("number ", fd.number(), " did not come over execve"));
  }
  if (st.st_dev == fd.device() && st.st_ino == fd.inode()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("number ", fd.number(), " is another file now"));
}

}  // namespace

absl::Status ExecSet::Arm() {
  for (const int fd : fds_) {
    const int flags = ::fcntl(fd, F_GETFD);
    if (flags < 0 || ::fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) != 0) {
      const absl::Status failed = ErrnoStatus(errno, absl::StrCat("keeping fd ", fd, " over execve"));
      Disarm();
      return failed;
    }
    if ((flags & FD_CLOEXEC) != 0) armed_.push_back(fd);
  }
  return absl::OkStatus();
}

void ExecSet::Disarm() {
  for (const int fd : std::exchange(armed_, {})) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
}

absl::StatusOr<v1::ExecManifest> DescribeExecFds(const FdTable& table) {
  v1::ExecManifest manifest;
  *manifest.mutable_manifest() = table.Manifest();
  for (const int number : table.fds()) {
    struct stat st;
    if (::fstat(number, &st) != 0) return ErrnoStatus(errno, absl::StrCat("fstat of fd ", number));
    v1::ExecFd* fd = manifest.add_fds();
    fd->set_number(static_cast<uint32_t>(number));
    fd->set_device(st.st_dev);
    fd->set_inode(st.st_ino);
  }
  return manifest;
}

absl::StatusOr<FdTable> AdoptExecFds(const v1::ExecManifest& manifest) {
  for (const int number : ExecFdNumbers(manifest)) ::fcntl(number, F_SETFD, FD_CLOEXEC);
  CPR_RETURN_IF_ERROR(CheckNumbers(manifest));
  for (const v1::FdEntry& entry : manifest.manifest().entries()) {
    const v1::ExecFd& fd = manifest.fds(static_cast<int>(entry.fd_index()));
    CPR_RETURN_IF_ERROR(
        Annotate(CheckIdentity(fd), absl::StrCat("fd '", entry.name(), "' instance ", entry.instance())));
  }
  std::vector<UniqueFd> fds;
  for (const int number : ExecFdNumbers(manifest)) fds.emplace_back(number);
  absl::StatusOr<FdTable> table = FdTable::FromManifestOrKeep(manifest.manifest(), fds);
  for (UniqueFd& fd : fds) (void)fd.Release();  // on error: the program before needs them
  return table;
}

std::vector<int> ExecFdNumbers(const v1::ExecManifest& manifest) {
  std::vector<int> numbers;
  for (const v1::ExecFd& fd : manifest.fds()) {
    if (fd.number() >= kFirstNumber && fd.number() <= INT_MAX) numbers.push_back(static_cast<int>(fd.number()));
  }
  return numbers;
}

}  // namespace cpr
