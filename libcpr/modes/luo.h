#ifndef LIBCPR_MODES_LUO_H_
#define LIBCPR_MODES_LUO_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/memory/ram_block.h"
#include "libcpr/modes/incoming.h"
#include "libcpr/modes/outgoing.h"
#include "libcpr/preserve/live_update.h"

// cpr-luo: the host gets a new kernel while guest RAM lies in memfds and the state in another one, all of them in one
// session of Linux' Live Update (libcpr/preserve/live_update.h), which the next kernel finds by its name. RAM is
// preserved in prepare, while the guest runs.
//
// Of fds only memfds can go; connections, taps and devices are made anew, as in cpr-reboot. The ownership word lies in
// the state: a guest that was taken back, because there was no kexec after all, is not resumed from it.

namespace cpr {

// By which the state is found in its session.
inline constexpr uint64_t kLuoStateToken = 0;

// Whether Live Update keeps this block, which is shared; for a blocker. kFailedPrecondition, naming it.
absl::Status CheckLuoRam(const RamBlock& block);

struct LuoOutgoingOptions {
  std::string session;  // its name, 1 to 63 bytes
  PhaseObserver observer;
  // Opens the device, once, in check; it is closed at once. Empty: LiveUpdate::Open.
  std::function<absl::StatusOr<LiveUpdate>()> open = {};
};

// An Outgoing that ends with the guest in its session, and holds that until it is destroyed: to be kept until the
// kernel goes, for destroying it calls the update off. So does Reclaim, after which it is to be destroyed. `vm` is lent
// and must outlive the result. Advance() blocks while a memfd is preserved, which takes time in proportion to its size,
// and lets the embedder's loop have a turn after each. kFailedPrecondition: a block, or another fd, that Live Update
// does not keep; a session of this name exists: kAlreadyExists.
absl::StatusOr<std::unique_ptr<Outgoing>> CreateLuoOutgoing(LuoOutgoingOptions options, OutgoingVm* vm);

struct LuoIncomingOptions {
  // Called once, in check: the session, which the embedder retrieves now, or has from an earlier try. It can be
  // retrieved once, and closing it loses the guest; so it stays the embedder's, who keeps it until the guest runs and
  // may try again with another Incoming whatever fails before. Lent. Finished when the guest runs.
  std::function<absl::StatusOr<LiveUpdateSession*>()> session;
  PhaseObserver observer;
};

absl::StatusOr<std::unique_ptr<Incoming>> CreateLuoIncoming(LuoIncomingOptions options, IncomingVm* vm);

}  // namespace cpr

#endif  // LIBCPR_MODES_LUO_H_
