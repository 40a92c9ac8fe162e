#include "libcpr/base/ioctl_function.h"

#include <sys/ioctl.h>

namespace cpr {

IoctlFunction KernelsUnless(IoctlFunction ioctl) {
  if (ioctl) return ioctl;
  return [](int fd, unsigned long request, void* argument) { return ::ioctl(fd, request, argument); };  // NOLINT
}

}  // namespace cpr
