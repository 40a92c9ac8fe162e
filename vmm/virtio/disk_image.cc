#include "vmm/virtio/disk_image.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

// QEMU's places for its locks (block/file-posix.c): byte 100 + n is locked by who does n, byte 200 + n by who cannot
// bear that another does it. All are shared locks; a conflict is found by asking for the other byte.
enum Permission : off_t { kConsistentRead = 0, kWrite = 1, kResize = 3 };
constexpr off_t kDoes = 100, kForbids = 200;

struct flock ByteLock(short type, off_t byte) {
  return {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1, .l_pid = 0};
}

absl::Status TakeLock(int fd, off_t byte) {
  struct flock lock = ByteLock(F_RDLCK, byte);
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "lock");
}

absl::Status ExpectFree(int fd, off_t byte, absl::string_view what) {
  struct flock lock = ByteLock(F_WRLCK, byte);
  if (::fcntl(fd, F_OFD_GETLK, &lock) < 0) return ErrnoStatus(errno, "lock");
  if (lock.l_type == F_UNLCK) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("Failed to get \"", what, "\" lock"));
}

// Locks first and looks then: of two that come at once, at least one sees the other.
absl::Status TakeLocks(int fd, bool read_only) {
  std::vector<off_t> does = {kConsistentRead};
  if (!read_only) does.push_back(kWrite);
  for (const off_t permission : does) CPR_RETURN_IF_ERROR(TakeLock(fd, kDoes + permission));
  for (const off_t permission : {kWrite, kResize}) CPR_RETURN_IF_ERROR(TakeLock(fd, kForbids + permission));
  if (!read_only) {
    // What we forbid others we hold ourselves: a second writer is seen by what it does.
    CPR_RETURN_IF_ERROR(ExpectFree(fd, kForbids + kWrite, "write"));
  }
  CPR_RETURN_IF_ERROR(ExpectFree(fd, kDoes + kWrite, read_only ? "shared read" : "write"));
  return ExpectFree(fd, kDoes + kResize, "write");
}

// QEMU's words.
absl::Status Lock(int fd, const DiskImage::Config& config) {
  const absl::Status status = TakeLocks(fd, config.read_only);
  if (!absl::IsFailedPrecondition(status)) return Annotate(status, config.path);
  return absl::FailedPreconditionError(
      absl::StrCat(status.message(), ": Is another process using the image [", config.path, "]?"));
}

// Nobody has called it raw: what QEMU would take for another format must not be written over.
absl::Status ExpectRaw(int fd) {
  constexpr struct {
    const char* format;
    size_t at;
    absl::string_view magic;
  } kFormats[] = {
      {"qcow2", 0, "QFI\xfb"}, {"vmdk", 0, "KDMV"},     {"vmdk", 0, "COWD"},         {"qed", 0, "QED"},
      {"vpc", 0, "conectix"},  {"vhdx", 0, "vhdxfile"}, {"luks", 0, "LUKS\xba\xbe"}, {"vdi", 64, "\x7f\x10\xda\xbe"}};
  char start[DiskImage::kSectorBytes];
  CPR_RETURN_IF_ERROR(PreadAll(fd, start, sizeof(start), 0));
  for (const auto& [format, at, magic] : kFormats) {
    if (absl::string_view(start, sizeof(start)).substr(at, magic.size()) != magic) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("looks like a ", format, " image, which cannot be used; format=raw if it is none"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SizeOf(int fd) {
  struct stat info;
  if (::fstat(fd, &info) < 0) return ErrnoStatus(errno, "fstat");
  uint64_t size_bytes = static_cast<uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode)) {
    CPR_RETURN_IF_ERROR(CPR_IOCTL(fd, BLKGETSIZE64, &size_bytes).status());
  } else if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError("is neither a regular file nor a block device");
  }
  if (size_bytes == 0 || size_bytes % DiskImage::kSectorBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("has ", size_bytes, " bytes, which is no number of sectors"));
  }
  return size_bytes;
}

using Transfer = ssize_t (*)(int, const iovec*, int, off_t);

absl::Status TransferAll(Transfer transfer, absl::string_view name, int fd, uint64_t offset,
                         absl::Span<const absl::Span<uint8_t>> buffers) {
  std::vector<iovec> vectors;
  for (const absl::Span<uint8_t> buffer : buffers) vectors.push_back({buffer.data(), buffer.size()});
  for (size_t at = 0; at < vectors.size();) {
    const int count = static_cast<int>(std::min<size_t>(vectors.size() - at, IOV_MAX));
    const ssize_t n = transfer(fd, &vectors[at], count, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, name);
    if (n == 0) return ErrnoStatus(EIO, name);  // the image has become shorter
    offset += static_cast<uint64_t>(n);
    auto left = static_cast<size_t>(n);
    while (at < vectors.size() && left >= vectors[at].iov_len) left -= vectors[at++].iov_len;
    if (left == 0) continue;
    vectors[at].iov_base = static_cast<char*>(vectors[at].iov_base) + left;
    vectors[at].iov_len -= left;
  }
  return absl::OkStatus();
}

absl::Status CheckRange(uint64_t offset, absl::Span<const absl::Span<uint8_t>> buffers, uint64_t size_bytes) {
  uint64_t total = 0;
  for (const absl::Span<uint8_t> buffer : buffers) total += buffer.size();
  if (offset <= size_bytes && total <= size_bytes - offset) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(total, " bytes at ", offset, " of a disk of ", size_bytes));
}

}  // namespace

absl::StatusOr<DiskImage> DiskImage::Create(const Config& config) {
  UniqueFd fd(::open(config.path.c_str(), (config.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, absl::StrCat("Could not open '", config.path, "'"));
  CPR_RETURN_IF_ERROR(Lock(fd.get(), config));
  const absl::StatusOr<uint64_t> size_bytes = SizeOf(fd.get());
  if (!size_bytes.ok()) return Annotate(size_bytes.status(), config.path);
  if (config.probe) CPR_RETURN_IF_ERROR(Annotate(ExpectRaw(fd.get()), config.path));
  return DiskImage(config, std::move(fd), *size_bytes);
}

absl::StatusOr<DiskImage> DiskImage::Adopt(const Config& config, UniqueFd fd) {
  const absl::StatusOr<uint64_t> size_bytes = SizeOf(fd.get());
  if (!size_bytes.ok())
    return absl::FailedPreconditionError(absl::StrCat(config.path, ": ", size_bytes.status().message()));
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if ((flags & O_ACCMODE) != (config.read_only ? O_RDONLY : O_RDWR)) {
    return absl::FailedPreconditionError(absl::StrCat(config.path, ": the fd is open for something else"));
  }
  return DiskImage(config, std::move(fd), *size_bytes);
}

absl::Status DiskImage::Read(uint64_t offset_bytes, absl::Span<const absl::Span<uint8_t>> buffers) const {
  CPR_RETURN_IF_ERROR(CheckRange(offset_bytes, buffers, size_bytes_));
  return TransferAll(&::preadv, "preadv", fd_.get(), offset_bytes, buffers);
}

absl::Status DiskImage::Write(uint64_t offset_bytes, absl::Span<const absl::Span<uint8_t>> buffers) const {
  CPR_RETURN_IF_ERROR(CheckRange(offset_bytes, buffers, size_bytes_));
  return TransferAll(&::pwritev, "pwritev", fd_.get(), offset_bytes, buffers);
}

void DiskImage::Unlock() const {
  struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0, .l_pid = 0};
  ::fcntl(fd_.get(), F_OFD_SETLK, &all);
}

absl::Status DiskImage::Relock() const {
  absl::Status status = Lock(fd_.get(), config_);
  if (!status.ok()) Unlock();
  return status;
}

absl::Status DiskImage::Flush() const {
  if (config_.read_only || ::fdatasync(fd_.get()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "fdatasync");
}

}  // namespace cpr
