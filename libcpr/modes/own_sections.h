#ifndef LIBCPR_MODES_OWN_SECTIONS_H_
#define LIBCPR_MODES_OWN_SECTIONS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libcpr/modes/vm.h"
#include "proto/cpr/v1/handover.pb.h"

// The sections that libcpr itself puts into a state, beside the embedder's.

namespace cpr {

constexpr absl::string_view kRamSection = "cpr/ram";            // early: the RAM blocks
constexpr absl::string_view kRamCopySection = "cpr/ram-copy";   // late: extents of a block that was copied
constexpr absl::string_view kHandoverSection = "cpr/handover";  // late: mode and times
constexpr absl::string_view kExecSection = "cpr/exec";          // early: fds and the way back
constexpr absl::string_view kLuoSection = "cpr/luo";            // early: fds and their tokens

// The version of all of them, written and read.
constexpr uint32_t kOwnVersion = 1;

SectionInfo OwnSectionInfo(absl::string_view name, Stage stage, uint32_t instance = 0);

// What every reader knows beside its embedder's sections.
std::vector<SectionSupport> OwnSupport();

v1::HandoverMode ModeToProto(Mode mode);
Mode ModeFromProto(v1::HandoverMode mode);

// A section with only one direction: its other function answers kInternal.
Section SaveOnly(SectionInfo info, std::function<absl::Status(std::string* payload)> save);
Section LoadOnly(SectionInfo info, std::function<absl::Status(absl::string_view payload, uint32_t version)> load);

// Outgoing, transfer, exec and luo: adds "cpr/ram", and a duplicate of each block's fd to `inventory.fds`, under the
// name that RamFdName gives. kFailedPrecondition, in QEMU's words: a block that does not outlive this process.
absl::Status AddSharedRam(Inventory& inventory);

// Outgoing, reboot: adds "cpr/ram". `copied[i]` is set for blocks that have to be copied into the state. `mark_id` is
// that of the mark beside the RAM (ram_mark.h), empty if there is none.
absl::Status AddRebootRam(Inventory& inventory, bool ignore_shared, std::vector<bool>* copied,
                          absl::string_view mark_id = "");

// Incoming: the blocks of a loaded "cpr/ram". All but reboot take their fds out of `fds`. Reboot opens the paths
// again and refuses a file that is not the one the state speaks of; a block without a file to find gets a new memfd.
absl::StatusOr<std::vector<RamBlock>> BlocksFromState(Mode mode, const v1::RamState& state, FdTable& fds);

}  // namespace cpr

#endif  // LIBCPR_MODES_OWN_SECTIONS_H_
