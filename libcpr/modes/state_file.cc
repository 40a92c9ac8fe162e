#include "libcpr/modes/state_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/container.h"

namespace cpr {
namespace {

constexpr unsigned kStateMode = 0600;

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

std::string StateFile::TemporaryPath() const { return absl::StrCat(path_, ".", ::getpid(), ".tmp"); }

absl::StatusOr<StateFile> StateFile::Create(std::string path, uint64_t offset_bytes) {
  if (offset_bytes % sizeof(uint64_t) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("file:", path, ",offset=", offset_bytes, ": the offset is no multiple of 8"));
  }
  StateFile file(std::move(path), offset_bytes, UniqueFd());
  if (offset_bytes != 0) {
    CPR_ASSIGN_OR_RETURN(file.fd_, OpenFile(file.path_, O_RDWR | O_CREAT, kStateMode));
    file.undo_ = Undo::kZeroHeader;
    return file;
  }
  absl::StatusOr<UniqueFd> unnamed = OpenFile(FolderOf(file.path_), O_RDWR | O_TMPFILE, kStateMode);
  if (unnamed.ok()) {
    file.fd_ = *std::move(unnamed);
    return file;
  }
  const int err = StatusErrno(unnamed.status());
  if (err != EOPNOTSUPP && err != EISDIR) return Annotate(unnamed.status(), absl::StrCat("file:", file.path_));
  CPR_ASSIGN_OR_RETURN(file.fd_, OpenFile(file.TemporaryPath(), O_RDWR | O_CREAT | O_EXCL, kStateMode));
  file.undo_ = Undo::kUnlinkTemporary;
  file.named_ = true;
  return file;
}

absl::Status StateFile::Link() {
  if (!named_) {
    const std::string self = absl::StrCat("/proc/self/fd/", fd_.get());
    // A first state takes its name at once. An older one of the same name is replaced by rename, never missing.
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) == 0) return absl::OkStatus();
    if (errno != EEXIST) return ErrnoStatus(errno, absl::StrCat("link of ", path_));
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, TemporaryPath().c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return ErrnoStatus(errno, absl::StrCat("link of ", TemporaryPath()));
    }
    undo_ = Undo::kUnlinkTemporary;
  }
  if (::rename(TemporaryPath().c_str(), path_.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("rename to ", path_));
}

absl::Status StateFile::SyncName() const {
  if (offset_bytes_ != 0) return absl::OkStatus();
  CPR_ASSIGN_OR_RETURN(const UniqueFd folder, OpenFile(FolderOf(path_), O_RDONLY | O_DIRECTORY));
  if (::fsync(folder.get()) != 0) return ErrnoStatus(errno, absl::StrCat("fsync of ", FolderOf(path_)));
  return absl::OkStatus();
}

absl::Status StateFile::Write(absl::string_view container) {
  const absl::string_view header = container.substr(0, kHeaderBytes);
  CPR_RETURN_IF_ERROR(
      Annotate(PwriteAll(fd_.get(), container.substr(header.size()), offset_bytes_ + header.size()), path_));
  if (offset_bytes_ != 0 && ::fdatasync(fd_.get()) != 0) return ErrnoStatus(errno, absl::StrCat("fsync of ", path_));
  CPR_RETURN_IF_ERROR(Annotate(PwriteAll(fd_.get(), header, offset_bytes_), path_));
  if (::fsync(fd_.get()) != 0) return ErrnoStatus(errno, absl::StrCat("fsync of ", path_));
  return absl::OkStatus();
}

absl::Status StateFile::Publish() {
  if (offset_bytes_ != 0) return absl::OkStatus();
  CPR_RETURN_IF_ERROR(Link());
  undo_ = Undo::kUnlinkPath;
  return absl::OkStatus();
}

void StateFile::Discard() {
  if (!fd_.ok()) return;
  const std::string zeros(kHeaderBytes, '\0');
  if (undo_ == Undo::kUnlinkTemporary) ::unlink(TemporaryPath().c_str());
  if (undo_ == Undo::kUnlinkPath) ::unlink(path_.c_str());
  if (undo_ == Undo::kZeroHeader) PwriteAll(fd_.get(), zeros, offset_bytes_).IgnoreError();
  undo_ = Undo::kNothing;
  fd_.Reset();
}

}  // namespace cpr
