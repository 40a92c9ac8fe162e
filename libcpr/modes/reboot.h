#ifndef LIBCPR_MODES_REBOOT_H_
#define LIBCPR_MODES_REBOOT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/memory/ram_copy.h"
#include "libcpr/modes/incoming.h"
#include "libcpr/modes/outgoing.h"

// cpr-reboot: the state goes to a file. RAM stays where it is if it is shared and has a name (a file, DAX); otherwise
// its pages are copied behind the state, holes and zero pages left out. Afterwards the old VMM may end and the host may
// get a new kernel. The file's own ownership word says whether the guest has been resumed from it: it can be, once.
//
// The state may also go into a stream: into a command's stdin (QEMU's exec:), or a file, pipe or socket that is open
// already (fd:). What goes through is the file's format, packed, so that a stream that was saved is a state file. It
// cannot be marked as used; the mark lies beside RAM that stays in place or goes back into its file (ram_mark.h). A
// state that carries all of its RAM has no mark: it never grows stale, and each reading of it makes a guest.
//
// The process should ignore SIGXFSZ: where RLIMIT_FSIZE is too small for the state, the kernel ends it otherwise, and
// the guest with it. Ignored, it is an error (EFBIG), and the guest runs on. Source: setrlimit(2).

namespace cpr {

struct RebootOutgoingOptions {
  std::string path;  // with a command or a stream: what errors call it
  uint64_t offset_bytes = 0;
  // QEMU's x-ignore-shared: leave shared, named RAM where it is.
  bool ignore_shared = false;
  PhaseObserver observer;
  // In place of a file: argv of a command that takes the state on its stdin. It must have ended, with exit status 0,
  // for the handover to succeed; its stderr is part of the error otherwise.
  std::vector<std::string> command = {};
  // In place of a file: a descriptor open for writing, non-blocking unless it is a regular file. The handover has
  // succeeded when the kernel has taken all bytes (and the disk, those of a regular file).
  UniqueFd stream = UniqueFd();
  // How RAM that cannot stay in place is copied. The only threads that libcpr starts: they end before the handover
  // does.
  RamCopyOptions copy = {};
};

// An Outgoing that ends with the guest in its file. `vm` is lent and must outlive the result.
absl::StatusOr<std::unique_ptr<Outgoing>> CreateRebootOutgoing(RebootOutgoingOptions options, OutgoingVm* vm);

struct RebootIncomingOptions {
  std::string path;  // with a command or a stream: what errors call it
  uint64_t offset_bytes = 0;
  // x-ignore-shared of this side. A state whose RAM stayed in place is refused without it, as both sides must agree.
  bool ignore_shared = false;
  PhaseObserver observer;
  // In place of a file: argv of a command that gives the state on its stdout, and then must end with exit status 0; or
  // a descriptor open for reading, non-blocking unless it is a regular file. Either is read to its end before anything
  // is touched: RAM that was copied needs as much memory once more meanwhile.
  std::vector<std::string> command = {};
  UniqueFd stream = UniqueFd();
  RamCopyOptions copy = {};
  // Private RAM that was copied into the file is mapped from there: the guest runs at once, and a page is read when the
  // guest first touches it. Nobody looks at the checksums of these pages, and the file has to stay as it is for as long
  // as the guest lives (it may be unlinked, or replaced by another of its name). Only from a file, at offset 0:
  // kInvalidArgument otherwise. Shared RAM is copied all the same.
  bool map_private = false;
};

absl::StatusOr<std::unique_ptr<Incoming>> CreateRebootIncoming(RebootIncomingOptions options, IncomingVm* vm);

}  // namespace cpr

#endif  // LIBCPR_MODES_REBOOT_H_
