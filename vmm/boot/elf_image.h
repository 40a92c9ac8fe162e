#ifndef VMM_BOOT_ELF_IMAGE_H_
#define VMM_BOOT_ELF_IMAGE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr {

// One PT_LOAD: `file_bytes` go to guest-physical `gpa`, zeros follow up to `memory_size_bytes`.
struct ElfSegment {
  uint64_t gpa = 0;
  absl::string_view file_bytes;
  uint64_t memory_size_bytes = 0;
};

// What booting needs of an ELF kernel. Views point into the file given to ParsePvhElf.
struct ElfImage {
  std::vector<ElfSegment> segments;
  uint64_t pvh_entry_gpa = 0;  // XEN_ELFNOTE_PHYS32_ENTRY, lies in one of the segments
};

// Reads the headers of an x86 ELF executable (32 or 64 bits) that carries a PVH entry note. `file` is untrusted.
// kInvalidArgument with the reason alone; the caller knows the file's name. Thread-safe.
absl::StatusOr<ElfImage> ParsePvhElf(absl::string_view file);

}  // namespace cpr

#endif  // VMM_BOOT_ELF_IMAGE_H_
