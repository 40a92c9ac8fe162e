#ifndef LIBCPR_MODES_MAIN_CHANNEL_H_
#define LIBCPR_MODES_MAIN_CHANNEL_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/modes/poller.h"
#include "libcpr/modes/stream_pump.h"

namespace cpr {

// The main channel of a cpr-transfer, on the side that receives. Anybody may connect to it: the peer is who shows first
// the token that went by the cpr channel. Not thread-safe.
class MainChannel {
 public:
  // `poller` must outlive it; `on_refused`, which may be empty, hears of whom it has turned away.
  MainChannel(Poller* poller, std::function<void(const absl::Status&)> on_refused)
      : poller_(poller), on_refused_(std::move(on_refused)) {}

  // Where the peer comes from: a listener, or a pipe or stream socket that it has. Owns it. kFailedPrecondition: there
  // is one already.
  absl::Status Listen(UniqueFd listener);
  absl::Status Adopt(UniqueFd stream);
  bool given() const { return listener_.ok() || adopted_.ok(); }

  // Begins to wait for the peer that begins with `token`.
  absl::Status Await(const std::string& token);
  // Takes what has come; true when the peer's state is whole.
  absl::StatusOr<bool> Pump();
  bool peer_found() const { return peer_ != nullptr; }
  // After Pump said true.
  std::string TakeContainer() { return peer_->TakeContainer(); }

 private:
  absl::Status AddCandidate(UniqueFd stream);
  absl::Status AcceptAll();
  void Sift();

  Poller* const poller_;
  const std::function<void(const absl::Status&)> on_refused_;
  std::string token_;
  UniqueFd listener_;
  UniqueFd adopted_;  // until it is a candidate, and a copy of it then
  std::vector<std::unique_ptr<StreamReceiver>> candidates_;
  std::unique_ptr<StreamReceiver> peer_;
};

}  // namespace cpr

#endif  // LIBCPR_MODES_MAIN_CHANNEL_H_
