#ifndef VMM_MACHINE_GUEST_MEMORY_H_
#define VMM_MACHINE_GUEST_MEMORY_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/mapping.h"
#include "libcpr/kvm/vm.h"
#include "libcpr/memory/ram_block.h"

namespace cpr {

// RAM below 4 GiB ends here; what is more begins at 4 GiB. Between them lie the devices.
inline constexpr uint64_t kLowRamLimitBytes = uint64_t{3} << 30;
inline constexpr uint64_t kHighRamGpa = uint64_t{4} << 30;

// The guest's RAM: its blocks, mapped into this process. Thread-compatible; what the guest writes meanwhile is the
// guest's affair.
class GuestMemory {
 public:
  // Maps `blocks`; touches every page if `preallocate`. kInvalidArgument: they overlap each other or the hole, or are
  // none.
  static absl::StatusOr<GuestMemory> Create(std::vector<RamBlock> blocks, bool preallocate = false);

  const std::vector<RamBlock>& blocks() const { return blocks_; }
  // The same blocks, each with a duplicate of its descriptor.
  absl::StatusOr<std::vector<RamBlock>> DupBlocks() const;
  // Where each block is mapped; lent.
  std::vector<uint8_t*> mapped() const;
  uint64_t size_bytes() const;
  uint64_t low_bytes() const;   // below the hole
  uint64_t high_bytes() const;  // above it

  // `size_bytes` of RAM at `gpa`, within one block. kOutOfRange: not all of it is RAM. Lives as long as this object.
  absl::StatusOr<absl::Span<uint8_t>> At(uint64_t gpa, uint64_t size_bytes) const;

  // Gives each block a memslot in `vm`: slots 0, 1, ...
  absl::Status AddSlots(kvm::Vm& vm) const;

 private:
  GuestMemory(std::vector<RamBlock> blocks, std::vector<Mapping> mappings)
      : blocks_(std::move(blocks)), mappings_(std::move(mappings)) {}

  std::vector<RamBlock> blocks_;   // by gpa
  std::vector<Mapping> mappings_;  // of each block
};

}  // namespace cpr

#endif  // VMM_MACHINE_GUEST_MEMORY_H_
