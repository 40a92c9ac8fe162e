#ifndef LIBCPR_MEMORY_FILE_IDENTITY_H_
#define LIBCPR_MEMORY_FILE_IDENTITY_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/cpr/v1/memory.pb.h"

namespace cpr {

// Which file lies under a descriptor, in terms that hold over a reboot: RAM that is found again by name must be the
// RAM that was left there. st_dev is not part of it, because file systems are numbered anew at each boot.
struct FileIdentity {
  uint64_t inode = 0;       // 0 for a character device
  uint64_t size_bytes = 0;  // of the whole file or DAX device
  uint32_t rdev_major = 0;  // character devices only
  uint32_t rdev_minor = 0;
  uint64_t birth_time_ns = 0;  // 0: not kept by the file system. A file made anew may get the old one's inode number

  // True if `other` can be the same file. Of a character device size and minor count: majors of DAX are given out at
  // run time.
  bool Matches(const FileIdentity& other) const;
};

// Asks the kernel about `fd`, which is lent. The size of a character device is that of DAX in sysfs, 0 if it is none.
// Thread-safe.
absl::StatusOr<FileIdentity> IdentifyFile(int fd);

// An attribute of the DAX device behind `fd`: "size" or "align". kInvalidArgument: it is no DAX device.
absl::StatusOr<uint64_t> DaxAttribute(int fd, const char* attribute);

v1::FileIdentity FileIdentityToProto(const FileIdentity& identity);
FileIdentity FileIdentityFromProto(const v1::FileIdentity& identity);

}  // namespace cpr

#endif  // LIBCPR_MEMORY_FILE_IDENTITY_H_
