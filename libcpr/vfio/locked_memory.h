#ifndef LIBCPR_VFIO_LOCKED_MEMORY_H_
#define LIBCPR_VFIO_LOCKED_MEMORY_H_

#include <cstdint>

#include "absl/status/status.h"

namespace cpr::vfio {

// `status` with what its user can do about it, if it is the kernel's answer to too much locked memory (ENOMEM), of
// which there would be `wanted_bytes` (0: not known), or to memory that it cannot pin (EFAULT); code and errno stay.
// Thread-safe.
absl::Status ExplainLockedMemory(const absl::Status& status, uint64_t wanted_bytes);

}  // namespace cpr::vfio

#endif  // LIBCPR_VFIO_LOCKED_MEMORY_H_
