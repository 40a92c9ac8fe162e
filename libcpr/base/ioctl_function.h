#ifndef LIBCPR_BASE_IOCTL_FUNCTION_H_
#define LIBCPR_BASE_IOCTL_FUNCTION_H_

#include <functional>

namespace cpr {

// ioctl(2), or what stands in for it: -1 with errno, or a result that is not negative.
using IoctlFunction = std::function<int(int fd, unsigned long request, void* argument)>;  // NOLINT(google-runtime-int)

// `ioctl`, or the kernel's if that is empty.
IoctlFunction KernelsUnless(IoctlFunction ioctl);

}  // namespace cpr

#endif  // LIBCPR_BASE_IOCTL_FUNCTION_H_
