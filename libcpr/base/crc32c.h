#ifndef LIBCPR_BASE_CRC32C_H_
#define LIBCPR_BASE_CRC32C_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace cpr {

// CRC32C (Castagnoli, RFC 3720 appendix B.4) of `data`. `seed` is the CRC of the bytes before it, so that
// Crc32c(b, Crc32c(a)) == Crc32c(ab). Uses SSE4.2 where the CPU has it: some 8
// bytes a cycle. Thread-safe.
uint32_t Crc32c(absl::string_view data, uint32_t seed = 0);

}  // namespace cpr

#endif  // LIBCPR_BASE_CRC32C_H_
