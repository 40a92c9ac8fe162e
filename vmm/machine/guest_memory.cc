#include "vmm/machine/guest_memory.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/backend.h"

namespace cpr {
namespace {

uint64_t End(const RamBlock& block) { return block.gpa() + block.size_bytes(); }

absl::Status CheckPlaces(const std::vector<RamBlock>& blocks) {
  if (blocks.empty()) return absl::InvalidArgumentError("a machine needs RAM");
  uint64_t end = 0;
  for (const RamBlock& block : blocks) {
    if (block.gpa() < end) {
      return absl::InvalidArgumentError(absl::StrCat("RAM block '", block.name(), "' overlaps the one before it"));
    }
    end = End(block);
    if (block.gpa() < kHighRamGpa && end > kLowRamLimitBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("RAM block '", block.name(), "' reaches into the hole below 4 GiB"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GuestMemory> GuestMemory::Create(std::vector<RamBlock> blocks, bool preallocate) {
  std::sort(blocks.begin(), blocks.end(), [](const RamBlock& a, const RamBlock& b) { return a.gpa() < b.gpa(); });
  CPR_RETURN_IF_ERROR(CheckPlaces(blocks));
  std::vector<Mapping> mappings;
  for (const RamBlock& block : blocks) {
    CPR_ASSIGN_OR_RETURN(mappings.emplace_back(), MapRamBlock(block));
    if (preallocate) CPR_RETURN_IF_ERROR(Preallocate(mappings.back(), block.fd(), block.offset_bytes()));
  }
  return GuestMemory(std::move(blocks), std::move(mappings));
}

absl::StatusOr<std::vector<RamBlock>> GuestMemory::DupBlocks() const {
  std::vector<RamBlock> copies;
  for (const RamBlock& block : blocks_) {
    CPR_ASSIGN_OR_RETURN(RamBlock copy, block.Dup());
    copies.push_back(std::move(copy));
  }
  return copies;
}

std::vector<uint8_t*> GuestMemory::mapped() const {
  std::vector<uint8_t*> mapped;
  for (const Mapping& mapping : mappings_) mapped.push_back(mapping.data());
  return mapped;
}

uint64_t GuestMemory::low_bytes() const {
  uint64_t bytes = 0;
  for (const RamBlock& block : blocks_) bytes += block.gpa() < kHighRamGpa ? block.size_bytes() : 0;
  return bytes;
}

uint64_t GuestMemory::size_bytes() const {
  uint64_t bytes = 0;
  for (const RamBlock& block : blocks_) bytes += block.size_bytes();
  return bytes;
}

uint64_t GuestMemory::high_bytes() const { return size_bytes() - low_bytes(); }

absl::StatusOr<absl::Span<uint8_t>> GuestMemory::At(uint64_t gpa, uint64_t size_bytes) const {
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const RamBlock& block = blocks_[i];
    if (gpa < block.gpa() || gpa >= End(block) || size_bytes > End(block) - gpa) continue;
    return absl::MakeSpan(mappings_[i].data() + (gpa - block.gpa()), size_bytes);
  }
  return absl::OutOfRangeError(absl::StrCat(size_bytes, " bytes at 0x", absl::Hex(gpa), " are not all RAM"));
}

absl::Status GuestMemory::AddSlots(kvm::Vm& vm) const {
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const kvm_userspace_memory_region region = {.slot = static_cast<uint32_t>(i),
                                                .guest_phys_addr = blocks_[i].gpa(),
                                                .memory_size = blocks_[i].size_bytes(),
                                                .userspace_addr = reinterpret_cast<uint64_t>(mappings_[i].data())};
    CPR_RETURN_IF_ERROR(Annotate(vm.SetUserMemoryRegion(region), absl::StrCat("RAM block '", blocks_[i].name(), "'")));
  }
  return absl::OkStatus();
}

}  // namespace cpr
