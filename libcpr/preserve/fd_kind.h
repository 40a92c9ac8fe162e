#ifndef LIBCPR_PRESERVE_FD_KIND_H_
#define LIBCPR_PRESERVE_FD_KIND_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr {

// What a descriptor is of. The values are those of v1::FdKind.
enum class FdKind {
  kUnspecified = 0,
  kMemfd = 1,
  kFile = 2,  // a regular file or a block device
  kEventfd = 3,
  kTap = 4,
  kVhost = 5,
  kVfioDevice = 6,
  kVfioGroup = 7,
  kVfioContainer = 8,
  kIommufd = 9,
  kSocket = 10,    // connected or unconnected, not listening
  kListener = 11,  // a listening socket
  kTty = 12,
  kPipe = 13,
  kCharDevice = 14,  // any
};

// "memfd", "vfio-device", ...; "unspecified" for what is no kind.
absl::string_view FdKindName(FdKind kind);

// Asks the kernel whether `fd` (lent) is of `kind`, by fstat, /proc/self/fd and getsockopt.
// kFailedPrecondition, saying what it is instead; kInvalidArgument for a kind that does not exist. Thread-safe.
absl::Status CheckFdKind(int fd, FdKind kind);

// What /proc/self/fd says of `fd` (lent): a path, "/memfd:ram (deleted)", "anon_inode:[eventfd]". Errors carry errno.
// Thread-safe.
absl::StatusOr<std::string> FdTarget(int fd);

}  // namespace cpr

#endif  // LIBCPR_PRESERVE_FD_KIND_H_
