#ifndef LIBCPR_MODES_TRANSFER_H_
#define LIBCPR_MODES_TRANSFER_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/modes/incoming.h"
#include "libcpr/modes/outgoing.h"
#include "libcpr/preserve/socket.h"

// cpr-transfer: the new VMM is started by the user and waits; both are alive at once. The cpr channel (unix) carries
// the handshake, RAM descriptors and fds; the state follows by the main channel, or by the cpr channel if that is all
// there is.
//
//   old                                    new
//    | -- Hello (sections) ---------------> |  check
//    | <------------------- HelloReply ---- |
//    | -- Prepare, FdBatch... ------------> |  prepare: maps RAM, builds the machine
//    | <------------ Built, MainReady ----- |
//   stop: guest paused                      |
//    | -- the state ----------------------> |  save: decodes, validates, applies
//    |        (ownership: offered -> new)   |  commit
//    | <---------------------- Running ---- |  resume
//   release

namespace cpr {

struct TransferTimeouts {
  absl::Duration check = absl::Seconds(10);
  // While the guest runs: for the new side to build its machine.
  absl::Duration build = absl::Minutes(1);
  // While the guest runs: for the new side to listen at the main channel; it may wait for its user (-incoming defer).
  absl::Duration main_channel = absl::InfiniteDuration();
  // While the guest is paused: from the last byte of the state to the peer's word that the guest runs.
  absl::Duration restore = absl::Seconds(10);
};

struct TransferOutgoingOptions {
  // The connected cpr channel.
  PacketSocket cpr_channel;
  // Begins to connect the main channel (a stream socket, non-blocking, possibly still in progress); called when the new
  // side says that it listens. Null: the state goes by the cpr channel.
  std::function<absl::StatusOr<UniqueFd>()> connect_main;
  TransferTimeouts timeouts;
  PhaseObserver observer;
};

// `vm` is lent and must outlive the result.
absl::StatusOr<std::unique_ptr<Outgoing>> CreateTransferOutgoing(TransferOutgoingOptions options, OutgoingVm* vm);

// The new side of a transfer.
class TransferIncoming : public Incoming {
 public:
  // Gives the listening stream socket of the main channel, at once or later (-incoming defer).
  virtual absl::Status ListenMain(UniqueFd listener) = 0;
  // Instead: the main channel itself, a pipe or stream socket that the other side writes to already. Non-blocking.
  virtual absl::Status AdoptMain(UniqueFd stream) = 0;

 protected:
  using Incoming::Incoming;
};

struct TransferIncomingOptions {
  // The listening cpr channel. A peer that fails before it has sent its fds, or takes too long for it, is dropped, with
  // a word to `on_refused`, and the next one is awaited.
  PacketSocket cpr_listener;
  std::function<void(const absl::Status&)> on_refused;
  absl::Duration handshake_timeout = absl::Seconds(10);
  PhaseObserver observer;
};

absl::StatusOr<std::unique_ptr<TransferIncoming>> CreateTransferIncoming(TransferIncomingOptions options,
                                                                         IncomingVm* vm);

}  // namespace cpr

#endif  // LIBCPR_MODES_TRANSFER_H_
