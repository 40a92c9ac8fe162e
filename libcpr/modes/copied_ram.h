#ifndef LIBCPR_MODES_COPIED_RAM_H_
#define LIBCPR_MODES_COPIED_RAM_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "libcpr/memory/ram_copy.h"
#include "libcpr/modes/vm.h"
#include "libcpr/vmstate/container.h"

// The RAM blocks that cpr-reboot copies into the state, on the side that saves. `copied` says which, by block.

namespace cpr {

// In the order of the blocks. Where each goes in the file is left to the caller.
std::vector<RamCopyOut::Source> SourcesToCopy(const Inventory& inventory, const std::vector<bool>& copied);

// Adds "cpr/ram-copy" for each of them; `extents` are in that order, too.
absl::Status AddRamCopySections(const std::vector<bool>& copied, absl::Span<const std::vector<RamExtent>> extents,
                                ContainerWriter& writer);

}  // namespace cpr

#endif  // LIBCPR_MODES_COPIED_RAM_H_
