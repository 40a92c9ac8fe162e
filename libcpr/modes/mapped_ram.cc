#include "libcpr/modes/mapped_ram.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/ram_extent.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {
namespace {

absl::StatusOr<std::vector<RamExtent>> ExtentsOf(const ContainerReader& state, int index) {
  const ContainerReader::View* view = state.Find(kRamCopySection, static_cast<uint32_t>(index));
  if (view == nullptr) return absl::DataLossError("the state does not say where its pages are");
  CPR_ASSIGN_OR_RETURN(const auto copy, DecodeProto<v1::RamCopyState>(view->payload, view->info.version, kOwnVersion));
  std::vector<RamExtent> extents;
  for (const v1::RamExtent& extent : copy.extents()) extents.push_back(RamExtentFromProto(extent));
  return extents;
}

// Where the block's first byte is, or would be, in the file.
absl::StatusOr<uint64_t> AreaOf(const std::vector<RamExtent>& extents) {
  const uint64_t area_bytes = extents[0].file_offset_bytes - extents[0].ram_offset_bytes;
  for (const RamExtent& extent : extents) {
    if (extent.file_offset_bytes >= extent.ram_offset_bytes &&
        extent.file_offset_bytes - extent.ram_offset_bytes == area_bytes)
      continue;
    return absl::DataLossError(absl::StrCat("its page at offset ", extent.ram_offset_bytes,
                                            " does not lie in the file as in memory: it cannot be mapped"));
  }
  return area_bytes;
}

absl::Status Lengthen(int file, uint64_t from_bytes, uint64_t to_bytes) {
  if (from_bytes >= to_bytes || ::ftruncate(file, static_cast<off_t>(to_bytes)) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "ftruncate");
}

absl::StatusOr<std::optional<RamBlock>> Map(RamBlockLayout layout, const std::vector<RamExtent>& extents, int file) {
  struct stat info;
  if (::fstat(file, &info) != 0) return ErrnoStatus(errno, "fstat");
  const auto file_bytes = static_cast<uint64_t>(info.st_size);
  CPR_RETURN_IF_ERROR(ValidateRamExtents(extents, layout.size_bytes, file_bytes));
  CPR_ASSIGN_OR_RETURN(layout.offset_bytes, AreaOf(extents));
  CPR_RETURN_IF_ERROR(Lengthen(file, file_bytes, layout.offset_bytes + layout.size_bytes));
  layout.backing = RamBacking::kFile;
  layout.page_size_bytes = 4096;
  layout.path.clear();
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, DupFd(file));
  CPR_ASSIGN_OR_RETURN(RamBlock mapped, RamBlock::Create(std::move(layout), std::move(fd)));
  return std::make_optional(std::move(mapped));
}

}  // namespace

absl::StatusOr<std::optional<RamBlock>> MapCopiedBlock(const v1::RamState& ram, int index, const ContainerReader& state,
                                                       int file) {
  const v1::RamState::Block& block = ram.blocks(index);
  if (!block.copied() || block.layout().shared()) return std::optional<RamBlock>();
  CPR_ASSIGN_OR_RETURN(RamBlockLayout layout, RamBlockLayoutFromProto(block.layout()));
  const std::string name = absl::StrCat("RAM block '", layout.name, "'");
  const absl::StatusOr<std::vector<RamExtent>> extents = ExtentsOf(state, index);
  if (!extents.ok()) return Annotate(extents.status(), name);
  if (extents->empty()) return std::optional<RamBlock>();
  absl::StatusOr<std::optional<RamBlock>> mapped = Map(std::move(layout), *extents, file);
  if (!mapped.ok()) return Annotate(mapped.status(), name);
  return mapped;
}

}  // namespace cpr
