#ifndef LIBCPR_BASE_STATUS_UTIL_H_
#define LIBCPR_BASE_STATUS_UTIL_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// What the canonical codes mean in libcpr, so that a caller can act on them:
//   kInvalidArgument     the caller's mistake              kOutOfRange     a version that is not supported
//   kDataLoss            checksum or format is broken      kUnavailable    try again
//   kUnimplemented       this host or build lacks it       kNotFound       no such file, section, fd
//   kFailedPrecondition  wrong phase, or the other side's state
//   kDeadlineExceeded    a peer did not answer in time     kCancelled      the user called it off

namespace cpr {

// A status for the errno value `err`, its message "`what`: <text of errno>". absl::ErrnoToStatus keeps only the
// canonical code, so errno itself travels as a payload. Thread-safe.
absl::Status ErrnoStatus(int err, absl::string_view what);

// The errno value that `status` carries, 0 if none.
int StatusErrno(const absl::Status& status);

// `status` with "`context`: " before its message; code and payloads stay. OK stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace cpr

#endif  // LIBCPR_BASE_STATUS_UTIL_H_
