#include "vmm/machine/ram_layout.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/memory/backend.h"
#include "vmm/machine/guest_memory.h"

namespace cpr {
namespace {

absl::StatusOr<RamBackend> CreateBackend(const MemoryBackend& backend) {
  switch (backend.kind) {
    case MemoryBackendKind::kFile:
      return OpenFileBackend({.path = backend.mem_path,
                              .size_bytes = backend.size_bytes,
                              .align_bytes = backend.align_bytes,
                              .shared = backend.share});
    case MemoryBackendKind::kMemfd:
      return CreateMemfdBackend({.name = backend.id,
                                 .size_bytes = backend.size_bytes,
                                 .shared = backend.share,
                                 .hugetlb = backend.hugetlb,
                                 .huge_page_bytes = backend.hugetlb_size_bytes});
    case MemoryBackendKind::kRam:
      // Shared memory without a name is a memfd, whatever it is called.
      if (backend.share) return CreateMemfdBackend({.name = backend.id, .size_bytes = backend.size_bytes});
      return CreateAnonymousBackend(backend.size_bytes);
    case MemoryBackendKind::kUnspecified:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat("memory backend '", backend.id, "' is of no kind"));
}

}  // namespace

absl::StatusOr<std::vector<RamBlock>> CreateGuestRam(const MemoryBackend& backend) {
  CPR_ASSIGN_OR_RETURN(const RamBackend memory, CreateBackend(backend));
  const uint64_t low_bytes = std::min(backend.size_bytes, kLowRamLimitBytes);
  std::vector<RamBlock> blocks;
  CPR_ASSIGN_OR_RETURN(RamBlock low, CreateRamBlock(memory, backend.id, 0, 0, low_bytes));
  blocks.push_back(std::move(low));
  if (backend.size_bytes == low_bytes) return blocks;
  CPR_ASSIGN_OR_RETURN(RamBlock high, CreateRamBlock(memory, absl::StrCat(backend.id, "-high"), kHighRamGpa, low_bytes,
                                                     backend.size_bytes - low_bytes));
  blocks.push_back(std::move(high));
  return blocks;
}

}  // namespace cpr
