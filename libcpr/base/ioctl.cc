#include "libcpr/base/ioctl.h"

#include <sys/ioctl.h>

#include <cerrno>

#include "libcpr/base/status_util.h"

namespace cpr {

absl::StatusOr<int> Ioctl(int fd, unsigned long request, absl::string_view name, const volatile void* arg) {  // NOLINT
  return Ioctl(fd, request, name, reinterpret_cast<uint64_t>(arg));
}

absl::StatusOr<int> Ioctl(int fd, unsigned long request, absl::string_view name, uint64_t arg) {  // NOLINT
  const int result = ::ioctl(fd, request, arg);
  if (result < 0) return ErrnoStatus(errno, name);
  return result;
}

}  // namespace cpr
