#ifndef LIBCPR_MODES_RAM_MARK_H_
#define LIBCPR_MODES_RAM_MARK_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/modes/ownership.h"
#include "proto/cpr/v1/handover.pb.h"

// A state in a file carries its ownership word, so that it is resumed once. A stream cannot be marked: it may be read
// again, long after its guest went on with RAM that has stayed in place. Therefore the word of such a state lies beside
// that RAM, in a small file that lives as long as the RAM does: RAM's path and ".cpr-mark". It is always the mark of
// the last state that went into a stream; earlier states are void.
//
//   0 magic "CPRMARK1"  8 mark id (16)  24 reserved (8)  32 word  40 changed_at_realtime_ns; 4096 bytes in all

namespace cpr {

constexpr size_t kMarkIdBytes = 16;

// A random id.
absl::StatusOr<std::string> NewMarkId();

// Where the mark of RAM at `ram_path` is.
std::string RamMarkPath(absl::string_view ram_path);

// The path of the RAM beside which the mark of `ram` lies; empty if nothing of it is shared and has a name: then the
// state carries all of the RAM, and nothing can move on without it.
std::string MarkedRamPath(const v1::RamState& ram);

// Makes the mark, kOld, in place of one that is there; on disk when this returns. Errors name the path and carry errno:
// the folder of hugetlbfs or of a device is no place for a file.
absl::StatusOr<Ownership> CreateRamMark(absl::string_view ram_path, absl::string_view mark_id);

// The mark that is there. kFailedPrecondition: there is none, or it is that of a later state.
absl::StatusOr<Ownership> OpenRamMark(absl::string_view ram_path, absl::string_view mark_id);

}  // namespace cpr

#endif  // LIBCPR_MODES_RAM_MARK_H_
