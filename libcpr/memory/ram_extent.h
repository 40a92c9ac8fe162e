#ifndef LIBCPR_MEMORY_RAM_EXTENT_H_
#define LIBCPR_MEMORY_RAM_EXTENT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/cpr/v1/memory.pb.h"

namespace cpr {

// A run of RAM in a file. See v1::RamExtent.
struct RamExtent {
  uint64_t ram_offset_bytes = 0;
  uint64_t size_bytes = 0;
  uint64_t file_offset_bytes = 0;
  uint32_t crc32c = 0;
};

constexpr uint64_t kMaxRamExtentBytes = 4 << 20;

v1::RamExtent RamExtentToProto(const RamExtent& extent);
RamExtent RamExtentFromProto(const v1::RamExtent& extent);

// Checks extents that come from elsewhere: within `ram_bytes` and `file_bytes`, ascending, not too large. kDataLoss.
absl::Status ValidateRamExtents(absl::Span<const RamExtent> extents, uint64_t ram_bytes, uint64_t file_bytes);

}  // namespace cpr

#endif  // LIBCPR_MEMORY_RAM_EXTENT_H_
