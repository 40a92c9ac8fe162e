#ifndef VMM_OPTIONS_MEMORY_BACKEND_H_
#define VMM_OPTIONS_MEMORY_BACKEND_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr {

enum class MemoryBackendKind { kUnspecified, kFile, kMemfd, kRam };

// Where a block of guest RAM comes from.
struct MemoryBackend {
  MemoryBackendKind kind = MemoryBackendKind::kUnspecified;
  std::string id;
  uint64_t size_bytes = 0;
  bool share = false;
  std::string mem_path;             // kFile: a file, a folder (a file without name is made in it) or a DAX device
  uint64_t align_bytes = 0;         // kFile: a power of two; 0 = what the file wants
  bool hugetlb = false;             // kMemfd
  uint64_t hugetlb_size_bytes = 0;  // kMemfd with hugetlb: page size, a power of two; 0 = the host's default
  bool prealloc = false;            // touch every page at start

  bool operator==(const MemoryBackend&) const = default;
};

// Parses the argument of -object: memory-backend-file|-memfd|-ram,id=,size=,..., also as JSON. As with QEMU, share is
// on for memfd and off for the others unless given. kInvalidArgument names what is wrong. Thread-safe.
absl::StatusOr<MemoryBackend> ParseMemoryBackend(absl::string_view text);

// kInvalidArgument: a value that no backend has, such as a size of 0.
absl::Status CheckMemoryBackend(const MemoryBackend& backend);

// "memory-backend-file" and so on.
absl::string_view MemoryBackendKindName(MemoryBackendKind kind);

}  // namespace cpr

#endif  // VMM_OPTIONS_MEMORY_BACKEND_H_
