#include "libcpr/base/crc32c.h"

#include <nmmintrin.h>

#include <array>
#include <cstring>

namespace cpr {
namespace {

constexpr uint32_t kReflectedPolynomial = 0x82f63b78;

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kReflectedPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}

uint32_t ByTable(absl::string_view data, uint32_t crc) {
  static constexpr std::array<uint32_t, 256> kTable = MakeTable();
  for (const char c : data) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return crc;
}

__attribute__((target("sse4.2"))) uint32_t ByInstruction(absl::string_view data, uint32_t crc) {
  uint64_t wide = crc;
  size_t at = 0;
  for (; at + sizeof(uint64_t) <= data.size(); at += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, data.data() + at, sizeof(word));
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<uint32_t>(wide);
  for (; at < data.size(); ++at) crc = _mm_crc32_u8(crc, static_cast<uint8_t>(data[at]));
  return crc;
}

}  // namespace

uint32_t Crc32c(absl::string_view data, uint32_t seed) {
  static const bool kHasInstruction = __builtin_cpu_supports("sse4.2") != 0;
  return ~(kHasInstruction ? ByInstruction(data, ~seed) : ByTable(data, ~seed));
}

}  // namespace cpr
