#ifndef LIBCPR_VMSTATE_LITTLE_ENDIAN_H_
#define LIBCPR_VMSTATE_LITTLE_ENDIAN_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace cpr::internal {

// An unsigned integer of the wire at `bytes[at]`. The caller has checked that it is there; any alignment. The loops
// compile to one move on little-endian machines.
template <typename T>
T LoadLe(absl::string_view bytes, size_t at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value |= static_cast<T>(static_cast<T>(static_cast<uint8_t>(bytes[at + i])) << (8 * i));
  return value;
}

template <typename T>
void StoreLe(T value, size_t at, std::string* bytes) {
  for (size_t i = 0; i < sizeof(T); ++i) (*bytes)[at + i] = static_cast<char>(static_cast<uint8_t>(value >> (8 * i)));
}

// `size` rounded up to the 8 bytes that everything in a container is aligned to.
inline constexpr uint64_t AlignUp(uint64_t size) { return (size + 7) & ~uint64_t{7}; }

}  // namespace cpr::internal

#endif  // LIBCPR_VMSTATE_LITTLE_ENDIAN_H_
