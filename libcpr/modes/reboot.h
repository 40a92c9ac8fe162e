#ifndef LIBCPR_MODES_REBOOT_H_
#define LIBCPR_MODES_REBOOT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "libcpr/modes/incoming.h"
#include "libcpr/modes/outgoing.h"

// cpr-reboot: the state goes to a file. RAM stays where it is if it is shared and has a name (a file, DAX); otherwise
// its pages are copied behind the state, holes and zero pages left out. Afterwards the old VMM may end and the host may
// get a new kernel. The file's own ownership word says whether the guest has been resumed from it: it can be, once.

namespace cpr {

struct RebootOutgoingOptions {
  std::string path;
  uint64_t offset_bytes = 0;
  // QEMU's x-ignore-shared: leave shared, named RAM where it is.
  bool ignore_shared = false;
  PhaseObserver observer;
};

// An Outgoing that ends with the guest in its file. `vm` is lent and must outlive the result.
absl::StatusOr<std::unique_ptr<Outgoing>> CreateRebootOutgoing(RebootOutgoingOptions options, OutgoingVm* vm);

struct RebootIncomingOptions {
  std::string path;
  uint64_t offset_bytes = 0;
  // x-ignore-shared of this side. A state whose RAM stayed in place is refused without it, as both sides must agree.
  bool ignore_shared = false;
  PhaseObserver observer;
};

absl::StatusOr<std::unique_ptr<Incoming>> CreateRebootIncoming(RebootIncomingOptions options, IncomingVm* vm);

}  // namespace cpr

#endif  // LIBCPR_MODES_REBOOT_H_
