#include <sys/epoll.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/modes/handover_channel.h"
#include "libcpr/modes/main_channel.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/state_memfd.h"
#include "libcpr/modes/transfer.h"

namespace cpr {
namespace {

// The fds that Prepare's own packet carries.
constexpr size_t kOwnershipFd = 0;
constexpr size_t kEarlyStateFd = 1;
constexpr size_t kLateStateFd = 2;
constexpr size_t kPrepareFds = 3;
// For so long a guest that has just arrived has the CPUs to itself: it finds nothing in caches and page tables, and
// what the old side does when it hears that the guest runs, it would do on the CPU that the guest runs on.
constexpr absl::Duration kArrivalTime = absl::Milliseconds(2);

class TransferIncomingImpl : public TransferIncoming {
 public:
  TransferIncomingImpl(TransferIncomingOptions options, IncomingVm* vm, Poller poller)
      : TransferIncoming(Mode::kTransfer, vm, std::move(options.observer), std::move(poller)),
        listener_(std::move(options.cpr_listener)),
        on_refused_(std::move(options.on_refused)),
        handshake_timeout_(options.handshake_timeout),
        main_(&poller_, on_refused_) {}

  absl::Status Listen() { return poller_.Watch(listener_.fd(), EPOLLIN); }
  absl::Status ListenMain(UniqueFd listener) override;
  absl::Status AdoptMain(UniqueFd stream) override;

 private:
  enum class At { kAccept, kHello, kPrepare, kFds, kBuild, kState, kRunning };

  absl::StatusOr<Next> Step() override;
  void Drop(const absl::Status& why) override {
    if (channel_ != nullptr) channel_->Send(FailureMessage(why)).IgnoreError();
  }

  absl::StatusOr<Next> Accept();
  // The steps until the fds are here: a peer that fails in them is dropped and the next one awaited.
  absl::StatusOr<Next> Handshake();
  absl::StatusOr<Next> AnswerHello();
  absl::StatusOr<Next> TakePrepare();
  absl::StatusOr<Next> TakeFds();
  absl::Status Late() const;
  absl::StatusOr<Next> BuildMachine();
  absl::StatusOr<Next> AwaitState();
  absl::StatusOr<Next> Finish(const std::string& state);
  absl::Status TellMainReady();
  // Tells the old side that the guest runs here, once it has run for a moment.
  absl::StatusOr<Next> TellRunning();

  PacketSocket listener_;
  const std::function<void(const absl::Status&)> on_refused_;
  const absl::Duration handshake_timeout_;
  At at_ = At::kAccept;
  std::unique_ptr<HandoverChannel> channel_;
  bool channel_gone_ = false;
  v1::Prepare prepare_;
  UniqueFd early_state_;
  UniqueFd late_state_;
  std::vector<UniqueFd> fds_;
  FdTable table_;  // of fds_, when all are there
  MainChannel main_;
  v1::HandoverMessage running_;
  int64_t runs_since_ns_ = 0;
};

absl::StatusOr<Incoming::Next> TransferIncomingImpl::Step() {
  switch (at_) {
    case At::kAccept:
      return Accept();
    case At::kState:
      return AwaitState();
    case At::kRunning:
      return TellRunning();
    default:
      return Handshake();
  }
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::Accept() {
  absl::StatusOr<PacketSocket> socket = listener_.Accept();
  if (absl::IsUnavailable(socket.status())) return Next::kWait;
  if (!socket.ok()) {
    if (on_refused_) on_refused_(socket.status());
    return Next::kAgain;
  }
  poller_.Forget(listener_.fd());
  channel_ = std::make_unique<HandoverChannel>(*std::move(socket));
  CPR_RETURN_IF_ERROR(poller_.Watch(channel_->fd(), EPOLLIN));
  poller_.SetDeadline(handshake_timeout_);
  at_ = At::kHello;
  return Next::kAgain;
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::Handshake() {
  const absl::StatusOr<Next> next = at_ == At::kHello ? AnswerHello() : at_ == At::kPrepare ? TakePrepare() : TakeFds();
  if (next.ok() && at_ == At::kBuild) {
    poller_.SetDeadline(absl::InfiniteDuration());
    return BuildMachine();
  }
  if (next.ok()) return next;
  const bool waits = absl::IsUnavailable(next.status());
  if (waits && !poller_.deadline_passed()) return Next::kWait;
  const absl::Status why = waits ? Late() : next.status();
  if (on_refused_) on_refused_(why);
  Drop(why);
  poller_.SetDeadline(absl::InfiniteDuration());
  poller_.Forget(channel_->fd());
  channel_.reset();
  fds_.clear();
  at_ = At::kAccept;
  CPR_RETURN_IF_ERROR(Listen());
  return Next::kAgain;
}

absl::Status TransferIncomingImpl::Late() const {
  const absl::string_view lacking = at_ == At::kHello ? "a Hello" : at_ == At::kPrepare ? "a Prepare" : "its fds";
  return absl::DeadlineExceededError(absl::StrCat("cpr channel: ", DescribePeer(channel_->fd()), " has not sent ",
                                                  lacking, " within ", absl::FormatDuration(handshake_timeout_)));
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::AnswerHello() {
  CPR_ASSIGN_OR_RETURN(Received received, channel_->Receive());
  if (!received.message.has_hello()) return absl::DataLossError("cpr channel: the first message is not a Hello");
  Enter(Phase::kCheck);
  const v1::Hello& hello = received.message.hello();
  absl::Status answer = CheckProtocolVersion(hello.protocol_version(), "the old side");
  if (answer.ok()) answer = CheckSections(SectionsOfHello(hello));
  CPR_RETURN_IF_ERROR(channel_->Send(HelloReplyMessage(answer)));
  CPR_RETURN_IF_ERROR(answer);
  at_ = At::kPrepare;
  return Next::kAgain;
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::TakePrepare() {
  CPR_ASSIGN_OR_RETURN(Received received, channel_->Receive());
  if (!received.message.has_prepare()) return absl::DataLossError("cpr channel: the second message is not a Prepare");
  if (received.fds.size() != kPrepareFds) {
    return absl::DataLossError(
        absl::StrCat("cpr channel: Prepare carries ", received.fds.size(), " fds, not ", kPrepareFds));
  }
  prepare_ = std::move(*received.message.mutable_prepare());
  if (!prepare_.main_token().empty() && prepare_.main_token().size() != kMainTokenBytes) {
    return absl::DataLossError("cpr channel: the main channel's token is not 16 bytes");
  }
  CPR_RETURN_IF_ERROR(ValidateFdManifest(prepare_.manifest(), static_cast<size_t>(prepare_.manifest().entries_size())));
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Map(received.fds[kOwnershipFd].get(), 0, /*sealed=*/true));
  early_state_ = std::move(received.fds[kEarlyStateFd]);
  late_state_ = std::move(received.fds[kLateStateFd]);
  at_ = At::kFds;
  return Next::kAgain;
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::TakeFds() {
  const size_t wanted = static_cast<size_t>(prepare_.manifest().entries_size());
  while (fds_.size() < wanted) {
    CPR_ASSIGN_OR_RETURN(Received received, channel_->Receive());
    if (!received.message.has_fd_batch() || received.message.fd_batch().first_index() != fds_.size()) {
      return absl::DataLossError(absl::StrCat("cpr channel: expected the fds from index ", fds_.size()));
    }
    if (received.fds.empty() || received.fds.size() > wanted - fds_.size()) {
      return absl::DataLossError(absl::StrCat("cpr channel: the manifest lists ", wanted, " fds, packets carry ",
                                              fds_.size() + received.fds.size()));
    }
    for (UniqueFd& fd : received.fds) fds_.push_back(std::move(fd));
  }
  CPR_ASSIGN_OR_RETURN(table_, FdTable::FromManifest(prepare_.manifest(), std::move(fds_)));
  at_ = At::kBuild;
  return Next::kAgain;
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::BuildMachine() {
  Enter(Phase::kPrepare);
  CPR_ASSIGN_OR_RETURN(const std::string early, ReadContainer(early_state_.get()));
  CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(early));
  CPR_RETURN_IF_ERROR(Incoming::Build(reader, std::move(table_)));
  clock_.End();
  v1::HandoverMessage message;
  message.mutable_built()->set_prepare_ns(clock_.times_ns()[static_cast<size_t>(Phase::kPrepare)]);
  CPR_RETURN_IF_ERROR(channel_->Send(message));
  at_ = At::kState;
  if (main_.given()) CPR_RETURN_IF_ERROR(TellMainReady());
  return Next::kAgain;
}

absl::Status TransferIncomingImpl::ListenMain(UniqueFd listener) {
  CPR_RETURN_IF_ERROR(main_.Listen(std::move(listener)));
  return at_ == At::kState ? TellMainReady() : absl::OkStatus();
}

absl::Status TransferIncomingImpl::AdoptMain(UniqueFd stream) {
  CPR_RETURN_IF_ERROR(main_.Adopt(std::move(stream)));
  return at_ == At::kState ? TellMainReady() : absl::OkStatus();
}

absl::Status TransferIncomingImpl::TellMainReady() {
  if (prepare_.main_token().empty()) return absl::OkStatus();
  CPR_RETURN_IF_ERROR(main_.Await(prepare_.main_token()));
  v1::HandoverMessage message;
  message.mutable_main_ready();
  return channel_->Send(message);
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::AwaitState() {
  if (!prepare_.main_token().empty() && main_.given()) {
    CPR_ASSIGN_OR_RETURN(const bool whole, main_.Pump());
    if (whole) return Finish(main_.TakeContainer());
  }
  if (channel_gone_) return Next::kWait;
  absl::StatusOr<Received> received = channel_->Receive();
  if (absl::IsUnavailable(received.status())) return Next::kWait;
  if (absl::IsAborted(received.status()) && main_.peer_found()) {
    // The old side is gone, but what it sent before may still lie in the main channel, and may be whole.
    channel_gone_ = true;
    poller_.Forget(channel_->fd());
    return Next::kAgain;
  }
  CPR_RETURN_IF_ERROR(received.status());
  if (!received->message.has_state_ready()) return absl::DataLossError("cpr channel: expected the state");
  CPR_ASSIGN_OR_RETURN(const std::string state, ReadContainer(late_state_.get()));
  return Finish(state);
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::Finish(const std::string& state) {
  const int64_t began_ns = MonotonicNs();
  CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(state));
  CPR_RETURN_IF_ERROR(Restore(reader));
  const int64_t restored_ns = MonotonicNs();
  CPR_RETURN_IF_ERROR(TakeAndRun());
  running_.mutable_running()->set_restore_ns(restored_ns - began_ns);
  runs_since_ns_ = MonotonicNs();
  running_.mutable_running()->set_commit_ns(runs_since_ns_ - restored_ns);
  // Whatever the old side sends or does now, it has nothing more to say here.
  if (!channel_gone_) poller_.Forget(channel_->fd());
  poller_.SetDeadline(kArrivalTime);
  at_ = At::kRunning;
  return Next::kWait;
}

absl::StatusOr<Incoming::Next> TransferIncomingImpl::TellRunning() {
  if (!poller_.deadline_passed()) return Next::kWait;
  running_.mutable_running()->set_waited_ns(MonotonicNs() - runs_since_ns_);
  channel_->Send(running_).IgnoreError();  // should the old side be gone, the word says it all
  return Next::kDone;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TransferIncoming>> CreateTransferIncoming(TransferIncomingOptions options,
                                                                         IncomingVm* vm) {
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  auto incoming = std::make_unique<TransferIncomingImpl>(std::move(options), vm, std::move(poller));
  CPR_RETURN_IF_ERROR(incoming->Listen());
  return incoming;
}

}  // namespace cpr
