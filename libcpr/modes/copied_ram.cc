#include "libcpr/modes/copied_ram.h"

#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/own_sections.h"

namespace cpr {

std::vector<RamCopyOut::Source> SourcesToCopy(const Inventory& inventory, const std::vector<bool>& copied) {
  std::vector<RamCopyOut::Source> sources;
  for (size_t i = 0; i < copied.size(); ++i) {
    if (!copied[i]) continue;
    const RamBlock& block = inventory.blocks[i];
    const MappedRam ram = {.data = inventory.mapped[i],
                           .size_bytes = block.size_bytes(),
                           .fd = block.fd(),
                           .offset_bytes = block.offset_bytes(),
                           .is_private = !block.shared()};
    sources.push_back({block.name(), ram});
  }
  return sources;
}

absl::Status AddRamCopySections(const std::vector<bool>& copied, absl::Span<const std::vector<RamExtent>> extents,
                                ContainerWriter& writer) {
  auto next = extents.begin();
  for (size_t i = 0; i < copied.size(); ++i) {
    if (!copied[i]) continue;
    v1::RamCopyState state;
    for (const RamExtent& extent : *next++) *state.add_extents() = RamExtentToProto(extent);
    CPR_RETURN_IF_ERROR(writer.Add(OwnSectionInfo(kRamCopySection, Stage::kLate, static_cast<uint32_t>(i)),
                                   [&state](std::string* payload) {
                                     state.AppendToString(payload);
                                     return absl::OkStatus();
                                   }));
  }
  return absl::OkStatus();
}

absl::Status SyncRamInPlace(const Inventory& inventory, const std::vector<bool>& copied) {
  for (size_t i = 0; i < copied.size(); ++i) {
    const RamBlock& block = inventory.blocks[i];
    if (copied[i] || block.backing() != RamBacking::kFile || ::fdatasync(block.fd()) == 0) continue;
    return ErrnoStatus(errno, absl::StrCat("RAM block '", block.name(), "': fdatasync of ", block.path()));
  }
  return absl::OkStatus();
}

}  // namespace cpr
