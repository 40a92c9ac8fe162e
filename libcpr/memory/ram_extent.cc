#include "libcpr/memory/ram_extent.h"

#include "absl/strings/str_cat.h"
#include "libcpr/memory/ram_data.h"

namespace cpr {

v1::RamExtent RamExtentToProto(const RamExtent& extent) {
  v1::RamExtent proto;
  proto.set_ram_offset_bytes(extent.ram_offset_bytes);
  proto.set_size_bytes(extent.size_bytes);
  proto.set_file_offset_bytes(extent.file_offset_bytes);
  proto.set_crc32c(extent.crc32c);
  return proto;
}

RamExtent RamExtentFromProto(const v1::RamExtent& extent) {
  return {.ram_offset_bytes = extent.ram_offset_bytes(),
          .size_bytes = extent.size_bytes(),
          .file_offset_bytes = extent.file_offset_bytes(),
          .crc32c = extent.crc32c()};
}

absl::Status ValidateRamExtents(absl::Span<const RamExtent> extents, uint64_t ram_bytes, uint64_t file_bytes) {
  uint64_t covered_until = 0;
  for (const RamExtent& e : extents) {
    const bool sized = e.size_bytes != 0 && e.size_bytes <= kMaxRamExtentBytes && e.size_bytes % kRamPageBytes == 0;
    const bool in_ram = e.ram_offset_bytes % kRamPageBytes == 0 && e.ram_offset_bytes >= covered_until &&
                        e.ram_offset_bytes < ram_bytes && e.size_bytes <= ram_bytes - e.ram_offset_bytes;
    const bool in_file = e.file_offset_bytes < file_bytes && e.size_bytes <= file_bytes - e.file_offset_bytes;
    if (!sized || !in_ram || !in_file) {
      return absl::DataLossError(absl::StrCat("extent of RAM at offset ", e.ram_offset_bytes, ", ", e.size_bytes,
                                              " bytes from file offset ", e.file_offset_bytes,
                                              !sized    ? ": wrong size"
                                              : !in_ram ? ": not within the block, or out of order"
                                                        : ": past the end of the file"));
    }
    covered_until = e.ram_offset_bytes + e.size_bytes;
  }
  return absl::OkStatus();
}

}  // namespace cpr
