#include "libcpr/modes/main_channel.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

// Connections that have not shown the token yet.
constexpr size_t kMaxCandidates = 8;

}  // namespace

absl::Status MainChannel::Listen(UniqueFd listener) {
  if (given()) return absl::FailedPreconditionError("the main channel listens already");
  listener_ = std::move(listener);
  return absl::OkStatus();
}

absl::Status MainChannel::Adopt(UniqueFd stream) {
  if (given()) return absl::FailedPreconditionError("the main channel is given already");
  adopted_ = std::move(stream);
  return absl::OkStatus();
}

absl::Status MainChannel::Await(const std::string& token) {
  token_ = token;
  if (listener_.ok()) return poller_->Watch(listener_.get(), EPOLLIN);
  CPR_ASSIGN_OR_RETURN(UniqueFd stream, DupFd(adopted_.get()));
  return AddCandidate(std::move(stream));
}

absl::Status MainChannel::AddCandidate(UniqueFd stream) {
  CPR_RETURN_IF_ERROR(poller_->Watch(stream.get(), EPOLLIN));
  candidates_.push_back(std::make_unique<StreamReceiver>(std::move(stream), token_));
  return absl::OkStatus();
}

absl::Status MainChannel::AcceptAll() {
  while (listener_.ok()) {
    UniqueFd stream(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!stream.ok()) return errno == EAGAIN ? absl::OkStatus() : ErrnoStatus(errno, "accept of the main channel");
    // The peer shows its token at once: who has been silent for longest is the least likely to be it.
    if (candidates_.size() == kMaxCandidates) Sift();
    if (peer_ != nullptr) return absl::OkStatus();
    if (candidates_.size() == kMaxCandidates) candidates_.erase(candidates_.begin());
    CPR_RETURN_IF_ERROR(AddCandidate(std::move(stream)));
  }
  return absl::OkStatus();
}

// Finds the peer among the candidates, and turns away who shows something else.
void MainChannel::Sift() {
  for (auto it = candidates_.begin(); it != candidates_.end() && peer_ == nullptr;) {
    const absl::Status status = (*it)->Pump().status();
    if ((*it)->token_seen()) peer_ = std::move(*it);
    if (status.ok() && peer_ == nullptr) {
      ++it;
      continue;
    }
    if (peer_ == nullptr && on_refused_) on_refused_(status);
    it = candidates_.erase(it);
  }
}

absl::StatusOr<bool> MainChannel::Pump() {
  if (peer_ == nullptr) {
    CPR_RETURN_IF_ERROR(AcceptAll());
    Sift();
    if (peer_ == nullptr) return false;
    candidates_.clear();
    if (listener_.ok()) poller_->Forget(listener_.get());
  }
  return peer_->Pump();
}

}  // namespace cpr
