#ifndef LIBCPR_MODES_REBOOT_STREAM_H_
#define LIBCPR_MODES_REBOOT_STREAM_H_

#include <memory>

#include "absl/status/statusor.h"
#include "libcpr/modes/reboot.h"

// cpr-reboot with a command or a stream in place of the file; reboot_outgoing.cc and reboot_incoming.cc alone use this.

namespace cpr {

absl::StatusOr<std::unique_ptr<Outgoing>> CreateRebootStreamOutgoing(RebootOutgoingOptions options, OutgoingVm* vm);

}  // namespace cpr

#endif  // LIBCPR_MODES_REBOOT_STREAM_H_
