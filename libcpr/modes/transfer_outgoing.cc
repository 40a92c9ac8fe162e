#include <sys/epoll.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/handover_channel.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/state_memfd.h"
#include "libcpr/modes/stream_pump.h"
#include "libcpr/modes/transfer.h"
#include "libcpr/preserve/stream_socket.h"

namespace cpr {
namespace {

absl::StatusOr<std::string> RandomToken() {
  std::string token(kMainTokenBytes, '\0');
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) {
    return ErrnoStatus(errno, "getrandom");
  }
  return token;
}

class TransferOutgoing : public Outgoing {
 public:
  TransferOutgoing(TransferOutgoingOptions options, OutgoingVm* vm, Poller poller)
      : Outgoing(Mode::kTransfer, vm, std::move(options.observer), std::move(poller)),
        channel_(std::move(options.cpr_channel)),
        connect_main_(std::move(options.connect_main)),
        timeouts_(options.timeouts) {}

 private:
  enum class At { kStart, kHello, kFds, kBuilt, kConnecting, kPause, kSending, kRunning };

  absl::StatusOr<Next> Step() override;
  void Drop(const absl::Status& why) override { channel_.Send(FailureMessage(why)).IgnoreError(); }

  absl::StatusOr<Next> Start();
  absl::StatusOr<Next> AwaitHello();
  absl::StatusOr<Next> SendFds();
  absl::StatusOr<Next> AwaitBuilt();
  absl::StatusOr<Next> AwaitMain();
  absl::StatusOr<Next> PauseAndSave();
  absl::StatusOr<Next> SendState();
  absl::StatusOr<Next> AwaitRunning();

  absl::Status SendPrepare();
  absl::Status OfferByMemfd(absl::string_view state);
  // Receives a message; Next::kWait as long as there is none.
  absl::StatusOr<Next> Await(v1::HandoverMessage* message);
  absl::Status Expect(absl::Duration timeout);

  HandoverChannel channel_;
  const std::function<absl::StatusOr<UniqueFd>()> connect_main_;
  const TransferTimeouts timeouts_;
  At at_ = At::kStart;
  std::string token_;
  UniqueFd late_state_;
  size_t fds_sent_ = 0;
  bool built_ = false;
  bool main_ready_ = false;
  std::unique_ptr<StreamSender> main_;
};

absl::StatusOr<Outgoing::Next> TransferOutgoing::Step() {
  switch (at_) {
    case At::kStart:
      return Start();
    case At::kHello:
      return AwaitHello();
    case At::kFds:
      return SendFds();
    case At::kBuilt:
      return AwaitBuilt();
    case At::kConnecting:
      return AwaitMain();
    case At::kPause:
      return PauseAndSave();
    case At::kSending:
      return SendState();
    case At::kRunning:
      return AwaitRunning();
  }
  return absl::InternalError("a step that does not exist");
}

absl::Status TransferOutgoing::Expect(absl::Duration timeout) {
  poller_.SetDeadline(timeout);
  return poller_.Watch(channel_.fd(), EPOLLIN);
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::Await(v1::HandoverMessage* message) {
  absl::StatusOr<Received> received = channel_.Receive();
  if (received.ok()) {
    *message = std::move(received->message);
    return Next::kAgain;
  }
  if (!absl::IsUnavailable(received.status())) return received.status();
  if (!poller_.deadline_passed()) return Next::kWait;
  return absl::DeadlineExceededError(absl::StrCat("the new side (", DescribePeer(channel_.fd()),
                                                  ") did not answer in time, phase ", PhaseName(phase())));
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::Start() {
  Enter(Phase::kCheck);
  CPR_RETURN_IF_ERROR(Collect());
  CPR_RETURN_IF_ERROR(AddSharedRam(inventory_));
  CPR_RETURN_IF_ERROR(Expect(timeouts_.check));
  CPR_RETURN_IF_ERROR(channel_.Send(HelloMessage(ModeToProto(mode_), inventory_.sections.Infos(), false)));
  at_ = At::kHello;
  return Next::kAgain;
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::AwaitHello() {
  v1::HandoverMessage message;
  CPR_ASSIGN_OR_RETURN(const Next next, Await(&message));
  if (next == Next::kWait) return next;
  CPR_RETURN_IF_ERROR(ReadHelloReply(message));
  Enter(Phase::kPrepare);
  CPR_RETURN_IF_ERROR(Expect(timeouts_.build));
  CPR_RETURN_IF_ERROR(SendPrepare());
  at_ = At::kFds;
  return Next::kAgain;
}

absl::Status TransferOutgoing::SendPrepare() {
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Create());
  CPR_ASSIGN_OR_RETURN(const UniqueFd early_state, CreateStateMemfd());
  CPR_ASSIGN_OR_RETURN(late_state_, CreateStateMemfd());
  CPR_ASSIGN_OR_RETURN(const std::string early, EncodeContainer(inventory_.sections, Stage::kEarly));
  CPR_RETURN_IF_ERROR(WriteAll(early_state.get(), early));
  CPR_ASSIGN_OR_RETURN(token_, RandomToken());
  v1::HandoverMessage message;
  *message.mutable_prepare()->mutable_manifest() = inventory_.fds.Manifest();
  if (connect_main_) message.mutable_prepare()->set_main_token(token_);
  return channel_.Send(message, {ownership_->fd(), early_state.get(), late_state_.get()});
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::SendFds() {
  const std::vector<int> fds = inventory_.fds.fds();
  while (fds_sent_ < fds.size()) {
    const absl::Span<const int> batch = absl::MakeConstSpan(fds).subspan(fds_sent_, size_t{PacketSocket::kMaxFds});
    v1::HandoverMessage message;
    message.mutable_fd_batch()->set_first_index(static_cast<uint32_t>(fds_sent_));
    const absl::Status sent = channel_.Send(message, batch);
    if (absl::IsUnavailable(sent)) {  // the peer's queue is full
      CPR_RETURN_IF_ERROR(poller_.Watch(channel_.fd(), EPOLLOUT));
      return Next::kWait;
    }
    CPR_RETURN_IF_ERROR(sent);
    fds_sent_ += batch.size();
  }
  CPR_RETURN_IF_ERROR(Expect(timeouts_.build));
  at_ = At::kBuilt;
  return Next::kAgain;
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::AwaitBuilt() {
  while (!built_ || (connect_main_ && !main_ready_)) {
    v1::HandoverMessage message;
    CPR_ASSIGN_OR_RETURN(const Next next, Await(&message));
    if (next == Next::kWait) return next;
    if (!message.has_built() && !message.has_main_ready()) {
      return absl::DataLossError("the new side sent another message than that its machine is built");
    }
    built_ |= message.has_built();
    if (built_) poller_.SetDeadline(timeouts_.main_channel);
    main_ready_ |= message.has_main_ready();
  }
  at_ = At::kPause;
  if (!connect_main_) return Next::kAgain;
  CPR_ASSIGN_OR_RETURN(UniqueFd stream, connect_main_());
  main_ = std::make_unique<StreamSender>(std::move(stream));
  CPR_RETURN_IF_ERROR(poller_.Watch(main_->fd(), EPOLLOUT));
  poller_.SetDeadline(timeouts_.check);
  at_ = At::kConnecting;
  return Next::kWait;
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::AwaitMain() {
  if (poller_.deadline_passed()) return absl::DeadlineExceededError("connect of the main channel: no answer in time");
  CPR_RETURN_IF_ERROR(FinishConnect(main_->fd()));
  // The token goes while the guest still runs; that it can go shows that the connection stands.
  if (at_ == At::kConnecting && !token_.empty()) main_->Append(std::exchange(token_, ""));
  const absl::StatusOr<bool> sent = main_->Pump();
  if (!sent.ok() && StatusErrno(sent.status()) == ENOTCONN) return Next::kWait;
  CPR_RETURN_IF_ERROR(sent.status());
  if (!*sent) return Next::kWait;
  CPR_RETURN_IF_ERROR(poller_.Watch(main_->fd(), 0));
  at_ = At::kPause;
  return Next::kAgain;
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::PauseAndSave() {
  CPR_RETURN_IF_ERROR(PauseGuest());
  Enter(Phase::kSave);
  CPR_ASSIGN_OR_RETURN(const std::string state, EncodeContainer(inventory_.sections, Stage::kLate));
  CPR_RETURN_IF_ERROR(Expect(timeouts_.restore));
  // Offered before the last byte goes, so that the new side may take the guest as soon as it has it.
  ownership_->Offer();
  if (main_ == nullptr) {
    CPR_RETURN_IF_ERROR(OfferByMemfd(state));
    Enter(Phase::kCommit);
    at_ = At::kRunning;
    return Next::kAgain;
  }
  main_->Append(state);
  at_ = At::kSending;
  return Next::kAgain;
}

absl::Status TransferOutgoing::OfferByMemfd(absl::string_view state) {
  CPR_RETURN_IF_ERROR(WriteAll(late_state_.get(), state));
  v1::HandoverMessage message;
  message.mutable_state_ready()->set_size_bytes(state.size());
  return channel_.Send(message);
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::SendState() {
  CPR_ASSIGN_OR_RETURN(const bool sent, main_->Pump());
  if (sent) {
    Enter(Phase::kCommit);
    CPR_RETURN_IF_ERROR(poller_.Watch(main_->fd(), 0));
    at_ = At::kRunning;
    return Next::kAgain;
  }
  if (poller_.deadline_passed())
    return absl::DeadlineExceededError("main channel: the new side does not read the state");
  CPR_RETURN_IF_ERROR(poller_.Watch(main_->fd(), EPOLLOUT));
  v1::HandoverMessage message;  // a failure of the new side ends it here
  CPR_ASSIGN_OR_RETURN(const Next next, Await(&message));
  if (next == Next::kAgain) return absl::DataLossError("the new side answered before it had the state");
  return next;
}

absl::StatusOr<Outgoing::Next> TransferOutgoing::AwaitRunning() {
  v1::HandoverMessage message;
  CPR_ASSIGN_OR_RETURN(const Next next, Await(&message));
  if (next == Next::kWait) return next;
  if (!message.has_running() || ownership_->owner() != Owner::kNew) {
    return absl::DataLossError("the new side sent another message than that the guest runs");
  }
  Enter(Phase::kResume);
  const int64_t commit_ns = clock_.times_ns()[static_cast<size_t>(Phase::kCommit)];
  const int64_t waited_ns = std::clamp<int64_t>(message.running().waited_ns(), 0, commit_ns);
  clock_.set_time_ns(Phase::kCommit, commit_ns - waited_ns);
  ReleaseGuest();
  return Next::kDone;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Outgoing>> CreateTransferOutgoing(TransferOutgoingOptions options, OutgoingVm* vm) {
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  return std::make_unique<TransferOutgoing>(std::move(options), vm, std::move(poller));
}

}  // namespace cpr
