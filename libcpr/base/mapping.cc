#include "libcpr/base/mapping.h"

#include <sys/mman.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_util.h"

namespace cpr {

absl::StatusOr<Mapping> Mapping::Create(int fd, uint64_t offset_bytes, size_t size_bytes, Access access, Sharing sharing) {
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  const int flags = sharing == Sharing::kShared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE;
  void* data = ::mmap(nullptr, size_bytes, protection, flags, fd, static_cast<off_t>(offset_bytes));
  if (data == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("mmap of ", size_bytes, " bytes"));
  return Mapping(static_cast<uint8_t*>(data), size_bytes);
}

absl::StatusOr<Mapping> Mapping::CreateAnonymous(size_t size_bytes) {
  void* data = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("mmap of ", size_bytes, " anonymous bytes"));
  return Mapping(static_cast<uint8_t*>(data), size_bytes);
}

void Mapping::Reset() {
  if (data_ != nullptr) ::munmap(std::exchange(data_, nullptr), std::exchange(size_bytes_, 0));
}

}  // namespace cpr
