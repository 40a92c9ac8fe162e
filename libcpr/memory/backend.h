#ifndef LIBCPR_MEMORY_BACKEND_H_
#define LIBCPR_MEMORY_BACKEND_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/memory/ram_block.h"
#include "proto/cpr/v1/memory.pb.h"

// Makes what lies under guest RAM. Every error names the memfd or path and the reason. All functions are thread-safe.

namespace cpr {

// One piece of memory, of which one or several RamBlocks are cut.
struct RamBackend {
  RamBacking backing = RamBacking::kUnspecified;
  UniqueFd fd;       // none for kAnonymous
  std::string path;  // absolute; kDax, and kFile unless unlinked
  uint64_t size_bytes = 0;
  uint64_t page_size_bytes = 4096;
  bool shared = false;
};

struct MemfdOptions {
  std::string name = "ram";  // for /proc/PID/maps
  uint64_t size_bytes = 0;
  bool shared = true;
  bool hugetlb = false;
  uint64_t huge_page_bytes = 0;  // 0: the system's default
  bool seal = true;              // F_SEAL_SHRINK and F_SEAL_GROW: RamBlock wants them of what is shared
};

// kInvalidArgument: the size is 0 or no multiple of the page size, or a huge page size is no power of two.
// kResourceExhausted and others with errno: not enough memory or huge pages.
absl::StatusOr<RamBackend> CreateMemfdBackend(const MemfdOptions& options);

struct FileOptions {
  std::string path;  // a file, a folder or a DAX device
  uint64_t size_bytes = 0;
  uint64_t align_bytes = 0;  // a power of two; 0: the page size of the file system or device
  bool shared = true;
};

// Opens `path`, as QEMU's memory-backend-file does: a missing or empty file becomes `size_bytes` long (mode 0600), a
// folder gets a file of no name in it, a character device must be DAX and at least as large.
// kFailedPrecondition: the file has another size; it is left as it is, and so is every file not made by this call.
absl::StatusOr<RamBackend> OpenFileBackend(const FileOptions& options);

// Private memory without a file. It has no descriptor: it is copied wherever it goes.
absl::StatusOr<RamBackend> CreateAnonymousBackend(uint64_t size_bytes);

// Maps all of a backend, or the bytes of one block (which must have a descriptor, or be anonymous).
absl::StatusOr<Mapping> MapRamBackend(const RamBackend& backend);
absl::StatusOr<Mapping> MapRamBlock(const RamBlock& block);

// The block of `size_bytes` from `offset_bytes` of `backend`, on a duplicate of its descriptor.
absl::StatusOr<RamBlock> CreateRamBlock(const RamBackend& backend, absl::string_view name, uint64_t gpa,
                                        uint64_t offset_bytes, uint64_t size_bytes);

// The block that `descriptor` describes, found again by its path: nothing is created or resized. kNotFound,
// kFailedPrecondition: there is no such file, or it is another one.
absl::StatusOr<RamBlock> ReopenRamBlock(const v1::RamBlockDescriptor& descriptor);

// Makes every page of [data, data + size) present and writable. kResourceExhausted: there is not enough memory.
absl::Status Preallocate(const Mapping& mapping, int fd, uint64_t offset_bytes);

}  // namespace cpr

#endif  // LIBCPR_MEMORY_BACKEND_H_
