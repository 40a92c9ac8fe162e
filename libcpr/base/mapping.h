#ifndef LIBCPR_BASE_MAPPING_H_
#define LIBCPR_BASE_MAPPING_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"

namespace cpr {

// Owns one mmap(2) of a file descriptor or of anonymous memory and unmaps it. Thread-compatible.
class [[nodiscard]] Mapping {
 public:
  enum class Access { kRead, kReadWrite };
  enum class Sharing { kShared, kPrivate };

  // Maps `size_bytes` of `fd` from `offset_bytes` (page-aligned). `fd` is lent and may be closed afterwards.
  // Errors carry errno; the file is not asked for its size, so reading past its end is SIGBUS: callers check first.
  static absl::StatusOr<Mapping> Create(int fd, uint64_t offset_bytes, size_t size_bytes, Access access = Access::kReadWrite,
                                        Sharing sharing = Sharing::kShared);
  // Anonymous private memory, zeroed, not reserved in swap.
  static absl::StatusOr<Mapping> CreateAnonymous(size_t size_bytes);

  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      Reset();
      data_ = std::exchange(other.data_, nullptr);
      size_bytes_ = std::exchange(other.size_bytes_, 0);
    }
    return *this;
  }
  ~Mapping() { Reset(); }

  uint8_t* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }
  void Reset();

 private:
  Mapping(uint8_t* data, size_t size_bytes) : data_(data), size_bytes_(size_bytes) {}
  uint8_t* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace cpr

#endif  // LIBCPR_BASE_MAPPING_H_
