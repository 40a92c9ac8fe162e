#ifndef LIBCPR_MEMORY_RAM_COPY_H_
#define LIBCPR_MEMORY_RAM_COPY_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/cpr/v1/memory.pb.h"

// Copies guest RAM that cannot stay in place into a file and back. Byte n of a block goes to byte n of its area of the
// file, so that the file is as sparse as the RAM, and parts of a block can be copied by several threads at once. What
// no extent covers is zero.

namespace cpr {

// A run of RAM in the file. See v1::RamExtent.
struct RamExtent {
  uint64_t ram_offset_bytes = 0;
  uint64_t size_bytes = 0;
  uint64_t file_offset_bytes = 0;
  uint32_t crc32c = 0;
};

constexpr uint64_t kMaxRamExtentBytes = 4 << 20;

v1::RamExtent RamExtentToProto(const RamExtent& extent);
RamExtent RamExtentFromProto(const v1::RamExtent& extent);

// A block as it is mapped here; all of it is lent.
struct MappedRam {
  uint8_t* data = nullptr;
  uint64_t size_bytes = 0;  // a multiple of 4 KiB
  // The file under a *shared* mapping, so that its holes are skipped unread (reading one would allocate it), or -1.
  int fd = -1;
  uint64_t offset_bytes = 0;  // of data[0] in that file
};

// Called with the number of bytes of RAM dealt with so far, every few MiB; false calls the copying off.
using CopyProgress = std::function<bool(uint64_t done_bytes)>;

// Writes [begin_bytes, end_bytes) of `ram`, which must not change meanwhile, to `fd` (lent), where the block's area
// starts at `file_offset_bytes`; holes and zero pages are skipped. Returns the extents in ascending order, each of at
// most kMaxRamExtentBytes. Errors carry errno (a full disk: kResourceExhausted); kCancelled: `progress` said so.
// kInvalidArgument: the range is not within the block or not aligned to 4 KiB. Thread-safe for distinct ranges.
absl::StatusOr<std::vector<RamExtent>> CopyRamOut(const MappedRam& ram, uint64_t begin_bytes, uint64_t end_bytes,
                                                  int fd, uint64_t file_offset_bytes,
                                                  const CopyProgress& progress = nullptr);

// The extents that CopyRamOut would write, without writing them, packed one behind the other from `file_offset_bytes`
// on: for a stream, which has no holes. Errors: kInvalidArgument, as above. Thread-safe.
absl::StatusOr<std::vector<RamExtent>> FindRamExtents(const MappedRam& ram, uint64_t begin_bytes, uint64_t end_bytes,
                                                      uint64_t file_offset_bytes);

// Checks extents that come from elsewhere: within `ram_bytes` and `file_bytes`, ascending, not too large. kDataLoss.
absl::Status ValidateRamExtents(absl::Span<const RamExtent> extents, uint64_t ram_bytes, uint64_t file_bytes);

// Fills `ram` from `fd` (lent), a regular file. All extents are validated before the first byte of RAM is touched. What
// none covers becomes zero, unless `ram_is_zero` says that it is so already. kDataLoss: an extent is malformed, cut or
// altered; the caller must then discard the RAM. kCancelled and errno as above.
absl::Status CopyRamIn(absl::Span<const RamExtent> extents, int fd, const MappedRam& ram, bool ram_is_zero,
                       const CopyProgress& progress = nullptr);

}  // namespace cpr

#endif  // LIBCPR_MEMORY_RAM_COPY_H_
