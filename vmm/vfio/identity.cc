#include "vmm/vfio/identity.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace cpr {

absl::Status CheckVfioIdentity(const VfioIdentity& found, const VfioIdentity& had) {
  std::vector<std::string> differences;
  if (found.vendor_id != had.vendor_id || found.device_id != had.device_id) {
    differences.push_back(absl::StrFormat("it is %04x:%04x, the guest had %04x:%04x", found.vendor_id, found.device_id,
                                          had.vendor_id, had.device_id));
  }
  for (unsigned bar = 0; bar < kPciBars; ++bar) {
    if (found.bar_bytes[bar] == had.bar_bytes[bar]) continue;
    differences.push_back(
        absl::StrFormat("BAR %d has %#x bytes, the guest had %#x", bar, found.bar_bytes[bar], had.bar_bytes[bar]));
  }
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the host's device is another one: ", absl::StrJoin(differences, "; ")));
}

}  // namespace cpr
