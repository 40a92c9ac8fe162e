#ifndef LIBCPR_VFIO_IOCTL_FUNCTION_H_
#define LIBCPR_VFIO_IOCTL_FUNCTION_H_

#include <functional>

namespace cpr::vfio {

// ioctl(2), or what stands in for it: -1 with errno, or a result that is not negative.
using IoctlFunction = std::function<int(int fd, unsigned long request, void* argument)>;  // NOLINT(google-runtime-int)

}  // namespace cpr::vfio

#endif  // LIBCPR_VFIO_IOCTL_FUNCTION_H_
