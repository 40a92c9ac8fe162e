#ifndef VMM_MACHINE_RAM_LAYOUT_H_
#define VMM_MACHINE_RAM_LAYOUT_H_

#include <vector>

#include "absl/status/statusor.h"
#include "libcpr/memory/ram_block.h"
#include "vmm/options/memory_backend.h"

namespace cpr {

// Makes the RAM that `backend` describes: one block of its id from address 0, and what is beyond 3 GiB as a second one,
// "ID-high", from 4 GiB, both in one file. Errors are those of libcpr/memory/backend.h. Thread-safe.
absl::StatusOr<std::vector<RamBlock>> CreateGuestRam(const MemoryBackend& backend);

}  // namespace cpr

#endif  // VMM_MACHINE_RAM_LAYOUT_H_
