// Byte layout shared by the container's writer, its reader and those that look at damaged containers.
#ifndef LIBCPR_VMSTATE_SECTION_FRAME_H_
#define LIBCPR_VMSTATE_SECTION_FRAME_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/crc32c.h"
#include "libcpr/vmstate/little_endian.h"
#include "libcpr/vmstate/section_info.h"
#include "libcpr/vmstate/state_header.h"

namespace cpr::internal {

// A section: this frame, the SectionHeader message, zeros to 8 bytes, the payload, zeros to 8 bytes.
inline constexpr size_t kFrameHeaderBytesAt = 0, kFramePayloadBytesAt = 4, kFrameCrcAt = 12, kFrameBytes = 16;

// The trailer, the container's last bytes.
inline constexpr absl::string_view kTrailerMagic = "CPRSTEND";
inline constexpr size_t kTrailerCountAt = 8, kTrailerCrcAt = 12, kTrailerBytes = 16;

// The checksum in a frame: of all of the section's bytes but itself, padding included.
inline uint32_t SectionCrc(absl::string_view section) {
  return Crc32c(section.substr(kFrameBytes), Crc32c(section.substr(0, kFrameCrcAt)));
}

// The checksum in the trailer: of every section's frame, which holds the section's own CRC, and of the header without
// the ownership block. So it covers all, and yet each byte of state is summed only once.
inline uint32_t ExtendFramesCrc(absl::string_view section, uint32_t crc) {
  return Crc32c(section.substr(0, kFrameBytes), crc);
}
inline uint32_t TrailerCrc(absl::string_view container, uint32_t header_bytes, uint32_t frames_crc) {
  const uint32_t with_header = Crc32c(container.substr(0, kFixedHeaderBytes), frames_crc);
  return Crc32c(container.substr(kHeaderBytes, header_bytes - kHeaderBytes), with_header);
}

// Where the parts of one section are, from its first byte.
struct Frame {
  uint32_t header_bytes = 0;
  uint64_t payload_bytes = 0;
  uint64_t payload_at = 0;
  uint64_t section_bytes = 0;
};

// The frame that `rest`, which reaches up to the trailer, begins with; within the limits and within `rest`.
absl::StatusOr<Frame> DecodeFrame(absl::string_view rest);

// One section from exactly its own bytes: checksum, then header, then padding. The payload points into them.
absl::StatusOr<SectionView> DecodeSection(absl::string_view section, const Frame& frame);

// kDataLoss if the two differ.
absl::Status CheckSum(uint32_t written, uint32_t computed);

}  // namespace cpr::internal

#endif  // LIBCPR_VMSTATE_SECTION_FRAME_H_
