#include "libcpr/memory/copy_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

// What memory and file offsets of RAM are multiples of, and what nearly every disk is content with.
constexpr uint64_t kAlignmentBytes = 4096;
// Smaller pieces are not worth a round trip to the disk each; the page cache gathers them.
constexpr uint64_t kDirectBytes = 256 << 10;
// How much may be on its way from the page cache to the disk: enough to keep it busy.
constexpr uint64_t kSentBytes = 64 << 20;

// Whether the file does O_DIRECT in pieces as RAM is. Only newer kernels and some file systems tell; the others are
// tried.
bool TakesDirect(int fd) {
#ifdef STATX_DIOALIGN
  struct statx info;
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) != 0) {
    return info.stx_dio_offset_align != 0 && info.stx_dio_offset_align <= kAlignmentBytes &&
           info.stx_dio_mem_align <= kAlignmentBytes;
  }
#endif
  return fd >= 0;
}

UniqueFd OpenDirect(int fd, CopyFile::Use use) {
  const std::string self = absl::StrCat("/proc/self/fd/", fd);
  return UniqueFd(::open(self.c_str(), (use == CopyFile::Use::kRead ? O_RDONLY : O_WRONLY) | O_DIRECT | O_CLOEXEC));
}

// The file, or this memory, cannot be had past the page cache.
bool IsRefusal(int err) { return err == EINVAL || err == EFAULT || err == EOPNOTSUPP; }

}  // namespace

CopyFile::CopyFile(int fd, Use use, bool direct) : fd_(fd) {
  if (!direct || !TakesDirect(fd)) return;
  direct_fd_ = OpenDirect(fd, use);
  direct_ = direct_fd_.ok();
}

void CopyFile::Lengthen(uint64_t size_bytes) {
  struct stat info;
  if (!direct() || ::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) return;
  const auto before_bytes = static_cast<uint64_t>(info.st_size);
  if (before_bytes >= size_bytes || ::ftruncate(fd_, static_cast<off_t>(size_bytes)) != 0) return;
  if (!lengthened_from_.has_value()) lengthened_from_ = before_bytes;
}

void CopyFile::Shorten(uint64_t size_bytes) const {
  if (!lengthened_from_.has_value()) return;
  // Should it stay longer, only a stream of it is.
  if (::ftruncate(fd_, static_cast<off_t>(std::max(size_bytes, *lengthened_from_))) != 0) return;
}

bool CopyFile::Suits(const void* data, uint64_t size_bytes, uint64_t offset_bytes) const {
  return direct() && size_bytes >= kDirectBytes &&
         (reinterpret_cast<uintptr_t>(data) | size_bytes | offset_bytes) % kAlignmentBytes == 0;
}

absl::StatusOr<size_t> CopyFile::Direct(size_t size_bytes, absl::FunctionRef<ssize_t(size_t done)> transfer,
                                        absl::string_view what) {
  for (size_t done = 0; done < size_bytes;) {
    const ssize_t n = transfer(done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && IsRefusal(errno)) {
      if (errno == EINVAL) direct_ = false;  // otherwise it was this memory alone
      return done;
    }
    if (n < 0) return ErrnoStatus(errno, what);
    done += static_cast<size_t>(n);
    // The end of the file, or a piece that ended where the next cannot begin.
    if (n == 0 || static_cast<uint64_t>(n) % kAlignmentBytes != 0) return done;
  }
  return size_bytes;
}

absl::Status CopyFile::Write(absl::string_view bytes, uint64_t offset_bytes) {
  size_t done = 0;
  if (Suits(bytes.data(), bytes.size(), offset_bytes)) {
    const auto transfer = [&](size_t at) {
      return ::pwrite(direct_fd_.get(), bytes.data() + at, bytes.size() - at, static_cast<off_t>(offset_bytes + at));
    };
    CPR_ASSIGN_OR_RETURN(done, Direct(bytes.size(), transfer, "pwrite"));
  }
  return PwriteAll(fd_, bytes.substr(done), offset_bytes + done);
}

absl::Status CopyFile::Read(char* data, size_t size_bytes, uint64_t offset_bytes) {
  size_t done = 0;
  if (Suits(data, size_bytes, offset_bytes)) {
    const auto transfer = [&](size_t at) {
      return ::pread(direct_fd_.get(), data + at, size_bytes - at, static_cast<off_t>(offset_bytes + at));
    };
    CPR_ASSIGN_OR_RETURN(done, Direct(size_bytes, transfer, "pread"));
  }
  return PreadAll(fd_, data + done, size_bytes - done, offset_bytes + done);
}

void CopyFile::ReadAhead(size_t size_bytes, uint64_t offset_bytes) const {
  if (Suits(nullptr, size_bytes, offset_bytes)) return;
  ::posix_fadvise(fd_, static_cast<off_t>(offset_bytes), static_cast<off_t>(size_bytes), POSIX_FADV_WILLNEED);
}

void CopyFile::DoneReading(uint64_t size_bytes, uint64_t offset_bytes) const {
  ::posix_fadvise(fd_, static_cast<off_t>(offset_bytes), static_cast<off_t>(size_bytes), POSIX_FADV_DONTNEED);
}

absl::Status CopyFile::DoneWriting(uint64_t size_bytes, uint64_t offset_bytes) {
  const auto sync = [this](Range range, unsigned flags) -> absl::Status {
    if (::sync_file_range(fd_, static_cast<off_t>(range.offset_bytes), static_cast<off_t>(range.size_bytes), flags) ==
        0)
      return absl::OkStatus();
    // No file that has a disk under it, or no such call: then fsync does it all.
    if (errno == EINVAL || errno == ESPIPE || errno == ENOSYS || errno == EPERM) return absl::OkStatus();
    return ErrnoStatus(errno, "writing the page cache back");
  };
  CPR_RETURN_IF_ERROR(sync({size_bytes, offset_bytes}, SYNC_FILE_RANGE_WRITE));
  Range oldest{};
  {
    MutexLock lock(&mutex_);
    sent_.push_back({size_bytes, offset_bytes});
    sent_bytes_ += size_bytes;
    if (sent_bytes_ <= kSentBytes) return absl::OkStatus();
    oldest = sent_.front();
    sent_bytes_ -= oldest.size_bytes;
    sent_.pop_front();
  }
  CPR_RETURN_IF_ERROR(sync(oldest, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
  DoneReading(oldest.size_bytes, oldest.offset_bytes);
  return absl::OkStatus();
}

}  // namespace cpr
