#include "libcpr/memory/file_identity.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {

namespace {

uint64_t BirthTimeNs(int fd) {
  struct statx stx;
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &stx) != 0 || (stx.stx_mask & STATX_BTIME) == 0) return 0;
  return static_cast<uint64_t>(stx.stx_btime.tv_sec) * 1'000'000'000 + stx.stx_btime.tv_nsec;
}

}  // namespace

bool FileIdentity::Matches(const FileIdentity& other) const {
  const bool device = rdev_major != 0, other_device = other.rdev_major != 0;
  const bool birth_known = birth_time_ns != 0 && other.birth_time_ns != 0;
  if (birth_known && birth_time_ns != other.birth_time_ns) return false;
  return device == other_device && inode == other.inode && size_bytes == other.size_bytes &&
         rdev_minor == other.rdev_minor;
}

absl::StatusOr<FileIdentity> IdentifyFile(int fd) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return ErrnoStatus(errno, absl::StrCat("fstat of fd ", fd));
  if (!S_ISCHR(st.st_mode)) {
    return FileIdentity{
        .inode = st.st_ino, .size_bytes = static_cast<uint64_t>(st.st_size), .birth_time_ns = BirthTimeNs(fd)};
  }
  const absl::StatusOr<uint64_t> size_bytes = DaxAttribute(fd, "size");
  return FileIdentity{.size_bytes = size_bytes.ok() ? *size_bytes : 0,
                      .rdev_major = major(st.st_rdev),
                      .rdev_minor = minor(st.st_rdev)};
}

absl::StatusOr<uint64_t> DaxAttribute(int fd, const char* attribute) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return ErrnoStatus(errno, absl::StrCat("fstat of fd ", fd));
  if (!S_ISCHR(st.st_mode)) return absl::InvalidArgumentError("not a character device");
  const std::string path = absl::StrCat("/sys/dev/char/", major(st.st_rdev), ":", minor(st.st_rdev), "/", attribute);
  const absl::StatusOr<UniqueFd> file = OpenFile(path, O_RDONLY);
  if (!file.ok()) return absl::InvalidArgumentError(absl::StrCat("not a DAX device: there is no ", path));
  CPR_ASSIGN_OR_RETURN(const std::string text, ReadToEnd(file->get(), 64));
  uint64_t value = 0;
  const absl::string_view digits = absl::StripAsciiWhitespace(text);
  if (!absl::SimpleAtoi(digits, &value))
    return absl::InvalidArgumentError(absl::StrCat(path, " is no number: ", digits));
  return value;
}

v1::FileIdentity FileIdentityToProto(const FileIdentity& identity) {
  v1::FileIdentity proto;
  proto.set_inode(identity.inode);
  proto.set_size_bytes(identity.size_bytes);
  proto.set_rdev_major(identity.rdev_major);
  proto.set_rdev_minor(identity.rdev_minor);
  proto.set_birth_time_ns(identity.birth_time_ns);
  return proto;
}

FileIdentity FileIdentityFromProto(const v1::FileIdentity& identity) {
  return {.inode = identity.inode(),
          .size_bytes = identity.size_bytes(),
          .rdev_major = identity.rdev_major(),
          .rdev_minor = identity.rdev_minor(),
          .birth_time_ns = identity.birth_time_ns()};
}

}  // namespace cpr
