#ifndef LIBCPR_MODES_MAPPED_RAM_H_
#define LIBCPR_MODES_MAPPED_RAM_H_

#include <optional>

#include "absl/status/statusor.h"
#include "libcpr/memory/ram_block.h"
#include "libcpr/vmstate/container.h"
#include "proto/cpr/v1/handover.pb.h"

namespace cpr {

// Private RAM that lies in a state's file, to be mapped from there instead of being copied: block number `index` of
// `ram`, on a duplicate of `file` (lent, open for writing). The file is lengthened to the block's end if it is shorter,
// which is a hole like all that was not copied. nullopt: the block is shared, or was left in place, or has no page in
// the file. kDataLoss: its extents are malformed, or do not lie as one piece of memory does.
absl::StatusOr<std::optional<RamBlock>> MapCopiedBlock(const v1::RamState& ram, int index, const ContainerReader& state,
                                                       int file);

}  // namespace cpr

#endif  // LIBCPR_MODES_MAPPED_RAM_H_
