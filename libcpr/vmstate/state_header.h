// The fixed first bytes of every state container ever written; docs/wire-format.md has the table.
//
//   0 magic  8 format_major  10 format_minor  12 header_bytes  16 arch  20 flags  24 body_bytes
//  32 created_at_realtime_ns  40 state_id  56 crc32c of bytes 0..55  60 reserved (0)
//  64 ownership block, covered by no CRC, since it changes in place:  64 word  72 changed_at_realtime_ns  80 reserved
// 128 sections, then the trailer
#ifndef LIBCPR_VMSTATE_STATE_HEADER_H_
#define LIBCPR_VMSTATE_STATE_HEADER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr {

inline constexpr absl::string_view kStateMagic = "CPRSTATE";
inline constexpr uint16_t kFormatMajor = 1;
inline constexpr uint16_t kFormatMinor = 0;

inline constexpr size_t kFixedHeaderBytes = 64;
// Where the ownership block is, in every format: libcpr/modes works on its first word with atomics through a shared
// mapping. A multiple of 8, so it is aligned wherever the container begins on a page.
inline constexpr size_t kOwnershipOffsetBytes = 64;
inline constexpr size_t kOwnershipBytes = 64;
inline constexpr size_t kHeaderBytes = kOwnershipOffsetBytes + kOwnershipBytes;

// Limits, checked before anything is allocated for what a file or a peer claims.
// A later minor format may add to the header; a page is plenty.
inline constexpr uint32_t kMaxHeaderBytes = 4096;
// 64 vCPUs of some 30 KiB and devices of some KiB are 2 MiB; RAM is never in here. 256 MiB can still be mapped and
// checksummed in well under a second.
inline constexpr uint64_t kMaxTotalBytes = uint64_t{256} << 20;

// Architectures by their ELF machine numbers.
inline constexpr uint32_t kArchX86_64 = 62;
inline constexpr uint32_t kArchAarch64 = 183;
inline constexpr uint32_t kArchRiscv = 243;
#if defined(__x86_64__)
inline constexpr uint32_t kArchHost = kArchX86_64;
#elif defined(__aarch64__)
inline constexpr uint32_t kArchHost = kArchAarch64;
#elif defined(__riscv)
inline constexpr uint32_t kArchHost = kArchRiscv;
#endif

std::string ArchName(uint32_t arch);

struct StateHeader {
  uint16_t format_major = kFormatMajor;
  uint16_t format_minor = kFormatMinor;
  uint32_t header_bytes = kHeaderBytes;  // where the sections begin
  uint32_t arch = kArchHost;
  uint32_t flags = 0;       // none are defined; a reader refuses those it does not know
  uint64_t body_bytes = 0;  // sections and trailer
  uint64_t created_at_realtime_ns = 0;
  std::array<uint8_t, 16> state_id{};  // random: tells one saved state from every other

  // What the container needs in all. No overflow: ParseStateHeader keeps it within kMaxTotalBytes.
  uint64_t total_bytes() const { return header_bytes + body_bytes; }
};

// The ownership block as it stands. What the word means is the business of libcpr/modes; a new container has zeros.
struct OwnershipBlock {
  uint64_t word = 0;
  uint64_t changed_at_realtime_ns = 0;
};

// Reads the header from the first kFixedHeaderBytes or more of a file or message and says precisely what it is if
// it is not a state for this reader. Thread-safe.
// kDataLoss: empty, foreign, cut within the header, or damaged.  kOutOfRange: a newer format, or too large.
// kUnimplemented: another architecture, or flags that this reader does not know.
absl::StatusOr<StateHeader> ParseStateHeader(absl::string_view first_bytes);

// Writes the fixed header, CRC and all, over bytes 0..63 of `*bytes`, which is that long.
void StoreStateHeader(const StateHeader& header, std::string* bytes);

// A plain copy of the block of a container of at least kHeaderBytes; not atomic.
OwnershipBlock CopyOwnershipBlock(absl::string_view container);

}  // namespace cpr

#endif  // LIBCPR_VMSTATE_STATE_HEADER_H_
