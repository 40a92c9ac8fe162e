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

// The instruction takes three cycles, but one can begin in each: three runs of this length are summed side by side.
constexpr size_t kRunBytes = 4096;

// What becomes of a CRC when kRunBytes zeros follow, by each of its bytes.
using RunTable = std::array<std::array<uint32_t, 256>, 4>;

constexpr RunTable MakeRunTable() {
  using Matrix = std::array<uint32_t, 32>;  // over GF(2), by columns
  const auto times = [](const Matrix& matrix, uint32_t vector) {
    uint32_t product = 0;
    for (size_t bit = 0; bit < 32; ++bit) product ^= (vector >> bit & 1) != 0 ? matrix[bit] : 0;
    return product;
  };
  Matrix zeros{kReflectedPolynomial};  // one zero bit
  for (size_t bit = 1; bit < 32; ++bit) zeros[bit] = uint32_t{1} << (bit - 1);
  for (size_t bits = 1; bits < kRunBytes * 8; bits *= 2) {
    Matrix twice{};
    for (size_t bit = 0; bit < 32; ++bit) twice[bit] = times(zeros, zeros[bit]);
    zeros = twice;
  }
  RunTable table{};
  for (uint32_t byte = 0; byte < 4; ++byte) {
    for (uint32_t value = 0; value < 256; ++value) table[byte][value] = times(zeros, value << (8 * byte));
  }
  return table;
}

uint32_t AfterRun(uint32_t crc) {
  static constexpr RunTable kTable = MakeRunTable();
  return kTable[0][crc & 0xff] ^ kTable[1][crc >> 8 & 0xff] ^ kTable[2][crc >> 16 & 0xff] ^ kTable[3][crc >> 24];
}

inline uint64_t WordAt(const char* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

__attribute__((target("sse4.2"))) uint32_t ThreeRuns(const char* data, uint32_t crc) {
  uint64_t first = crc, second = 0, third = 0;
  for (size_t at = 0; at < kRunBytes; at += sizeof(uint64_t)) {
    first = _mm_crc32_u64(first, WordAt(data + at));
    second = _mm_crc32_u64(second, WordAt(data + kRunBytes + at));
    third = _mm_crc32_u64(third, WordAt(data + 2 * kRunBytes + at));
  }
  const uint32_t of_two = AfterRun(static_cast<uint32_t>(first)) ^ static_cast<uint32_t>(second);
  return AfterRun(of_two) ^ static_cast<uint32_t>(third);
}

__attribute__((target("sse4.2"))) uint32_t ByInstruction(absl::string_view data, uint32_t crc) {
  for (; data.size() >= 3 * kRunBytes; data.remove_prefix(3 * kRunBytes)) crc = ThreeRuns(data.data(), crc);
  uint64_t wide = crc;
  size_t at = 0;
  for (; at + sizeof(uint64_t) <= data.size(); at += sizeof(uint64_t))
    wide = _mm_crc32_u64(wide, WordAt(data.data() + at));
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
