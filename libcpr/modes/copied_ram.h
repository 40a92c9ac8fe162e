#ifndef LIBCPR_MODES_COPIED_RAM_H_
#define LIBCPR_MODES_COPIED_RAM_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "libcpr/memory/ram_copy.h"
#include "libcpr/modes/vm.h"
#include "libcpr/vmstate/container.h"

// What becomes of RAM in cpr-reboot, on the side that saves: `copied` says which blocks are copied into the state; the
// others stay where they are.

namespace cpr {

// In the order of the blocks. Where each goes in the file is left to the caller.
std::vector<RamCopyOut::Source> SourcesToCopy(const Inventory& inventory, const std::vector<bool>& copied);

// Adds "cpr/ram-copy" for each of them; `extents` are in that order, too.
absl::Status AddRamCopySections(const std::vector<bool>& copied, absl::Span<const std::vector<RamExtent>> extents,
                                ContainerWriter& writer);

// Has what the host's page cache, or its CPUs', hold of RAM files that stay written to where they lie: no work on tmpfs
// and hugetlbfs; a DAX file system must remember which blocks are the file's, and a disk gets the pages. Takes time in
// proportion to what was written since the last time. Errors name the block and carry errno.
absl::Status SyncRamInPlace(const Inventory& inventory, const std::vector<bool>& copied);

}  // namespace cpr

#endif  // LIBCPR_MODES_COPIED_RAM_H_
