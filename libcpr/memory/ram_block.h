#ifndef LIBCPR_MEMORY_RAM_BLOCK_H_
#define LIBCPR_MEMORY_RAM_BLOCK_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/memory/file_identity.h"
#include "proto/cpr/v1/memory.pb.h"

namespace cpr {

// What lies under guest RAM. The values are those of v1::RamBacking.
enum class RamBacking {
  kUnspecified = 0,
  kMemfd = 1,
  kFile = 2,       // a regular file, named or already unlinked
  kDax = 3,        // a device DAX node
  kAnonymous = 4,  // private memory without a descriptor
};

// "memfd", "file", "dax", "anonymous".
absl::string_view RamBackingName(RamBacking backing);

// Everything that describes a block but its descriptor.
struct RamBlockLayout {
  std::string name;
  uint64_t gpa = 0;  // guest physical address of the first byte
  uint64_t size_bytes = 0;
  uint64_t page_size_bytes = 4096;  // of the backing: 2 MiB or 1 GiB for hugetlb and DAX
  RamBacking backing = RamBacking::kUnspecified;
  bool shared = false;        // mapped MAP_SHARED, so that the file holds what the guest wrote
  std::string path = {};      // kDax and named kFile: where a later program finds it again
  uint64_t offset_bytes = 0;  // of the block in its file
};

// Describes one block of guest RAM that is to outlive the VMM process. Two blocks may lie in one file at different
// offsets (RAM split round the hole below 4 GiB), each with a duplicate of the descriptor.
// Thread-compatible. Does not map memory.
class RamBlock {
 public:
  static constexpr uint64_t kMaxAddress = uint64_t{1} << 52;  // x86's widest physical address
  static constexpr size_t kMaxNameBytes = 255;

  // `gpa`, `size_bytes` and `offset_bytes` must be multiples of 4 KiB, size and offset of the page size too. Takes
  // ownership of `fd`, also when an error is returned; kAnonymous has none.
  // kInvalidArgument: misaligned, zero-sized, past 2^52, no name, a descriptor of another kind than `backing`.
  // kFailedPrecondition: the file is shorter than offset + size, or is a shared memfd without F_SEAL_SHRINK and
  // F_SEAL_GROW (whoever else holds it could SIGBUS us).
  static absl::StatusOr<RamBlock> Create(RamBlockLayout layout, UniqueFd fd);

  // The block that `descriptor` describes, on `fd`, with the same checks: both came from elsewhere. Also
  // kFailedPrecondition, naming the path, if `fd` is another file than the descriptor's.
  static absl::StatusOr<RamBlock> FromProto(const v1::RamBlockDescriptor& descriptor, UniqueFd fd);
  v1::RamBlockDescriptor ToProto() const;

  const std::string& name() const { return layout_.name; }
  uint64_t gpa() const { return layout_.gpa; }
  uint64_t size_bytes() const { return layout_.size_bytes; }
  uint64_t page_size_bytes() const { return layout_.page_size_bytes; }
  RamBacking backing() const { return layout_.backing; }
  bool shared() const { return layout_.shared; }
  const std::string& path() const { return layout_.path; }
  uint64_t offset_bytes() const { return layout_.offset_bytes; }
  const FileIdentity& identity() const { return identity_; }
  const RamBlockLayout& layout() const { return layout_; }

  // Lent; -1 for kAnonymous.
  int fd() const { return fd_.get(); }
  absl::StatusOr<UniqueFd> DupFd() const;
  // The same block on a duplicate of its descriptor: what OutgoingVm::Describe gives away.
  absl::StatusOr<RamBlock> Dup() const;

  // True if the guest's bytes are still there in a process that holds only the descriptor: cpr-transfer, cpr-exec.
  bool SurvivesProcess() const { return layout_.shared && fd_.ok(); }
  // True if they are found again by name after a reboot: cpr-reboot with x-ignore-shared.
  bool SurvivesReboot() const { return SurvivesProcess() && !layout_.path.empty(); }
  // True if cpr-reboot leaves the block where it is; otherwise it is copied.
  bool InPlace(bool ignore_shared) const { return ignore_shared && SurvivesReboot(); }

 private:
  RamBlock(RamBlockLayout layout, UniqueFd fd, FileIdentity identity);

  RamBlockLayout layout_;
  UniqueFd fd_;
  FileIdentity identity_;
};

// Checks the numbers and strings of `layout` alone, as Create does.
absl::Status ValidateRamBlockLayout(const RamBlockLayout& layout);

// What a descriptor from elsewhere says, validated, before there is a file descriptor for it.
absl::StatusOr<RamBlockLayout> RamBlockLayoutFromProto(const v1::RamBlockDescriptor& descriptor);

}  // namespace cpr

#endif  // LIBCPR_MEMORY_RAM_BLOCK_H_
