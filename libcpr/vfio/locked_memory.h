#ifndef LIBCPR_VFIO_LOCKED_MEMORY_H_
#define LIBCPR_VFIO_LOCKED_MEMORY_H_

#include "absl/status/status.h"

namespace cpr::vfio {

// `status` with the limit of locked memory in words, if it is the kernel's answer to too much of it (ENOMEM); code and
// errno stay. Thread-safe.
absl::Status ExplainLockedMemory(const absl::Status& status);

}  // namespace cpr::vfio

#endif  // LIBCPR_VFIO_LOCKED_MEMORY_H_
