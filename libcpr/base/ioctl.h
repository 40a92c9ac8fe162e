#ifndef LIBCPR_BASE_IOCTL_H_
#define LIBCPR_BASE_IOCTL_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// ioctl(2) whose error names the request: CPR_IOCTL(fd, KVM_SET_SREGS2, &sregs).
#define CPR_IOCTL(fd, request, arg) ::cpr::Ioctl((fd), (request), #request, (arg))

namespace cpr {

// Calls ioctl(2) and returns its non-negative result, or a status with errno and `name`. EINTR is not retried: for
// KVM_RUN it is an answer. `fd` is lent. Thread-safe.
absl::StatusOr<int> Ioctl(int fd, unsigned long request, absl::string_view name, const volatile void* arg);  // NOLINT
absl::StatusOr<int> Ioctl(int fd, unsigned long request, absl::string_view name, uint64_t arg);              // NOLINT
inline absl::StatusOr<int> Ioctl(int fd, unsigned long request, absl::string_view name, int arg) {           // NOLINT
  return Ioctl(fd, request, name, static_cast<uint64_t>(arg));
}
inline absl::StatusOr<int> Ioctl(int fd, unsigned long request, absl::string_view name, unsigned arg) {  // NOLINT
  return Ioctl(fd, request, name, static_cast<uint64_t>(arg));
}

}  // namespace cpr

#endif  // LIBCPR_BASE_IOCTL_H_
