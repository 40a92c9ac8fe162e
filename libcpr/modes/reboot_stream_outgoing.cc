#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/ram_copy.h"
#include "libcpr/modes/command.h"
#include "libcpr/modes/copied_ram.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/ram_mark.h"
#include "libcpr/modes/reboot_stream.h"
#include "libcpr/modes/state_stream.h"
#include "libcpr/vmstate/container.h"

namespace cpr {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kExtentBytes = 40;     // encoded, at most
constexpr uint64_t kSectionBytes = 1024;  // a section's frame and padding, at most

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

// The state goes through once, from its first byte to its last: what RAM must be copied is found first, which tells
// the container all it has to say, and then both are written from where they lie. RAM is never held twice.
class RebootStreamOutgoing : public Outgoing {
 public:
  RebootStreamOutgoing(RebootOutgoingOptions options, OutgoingVm* vm, Poller poller)
      : Outgoing(Mode::kReboot, vm, std::move(options.observer), std::move(poller)), options_(std::move(options)) {}

  absl::Status Arm();

 private:
  enum class At { kStart, kPause, kFind, kWrite, kAwaitEnd };

  absl::StatusOr<Next> Step() override;
  void Drop(const absl::Status&) override;

  absl::StatusOr<Next> Start();
  absl::Status MakeMark();
  absl::Status OpenStream();
  absl::StatusOr<Next> PauseAndSave();
  absl::Status StartFinding();
  absl::StatusOr<Next> Find();
  void EndFinding();
  absl::StatusOr<Next> Finish();
  void QueueBytes();
  absl::Status Offer();
  absl::StatusOr<Next> Write();
  absl::StatusOr<Next> AwaitEnd();
  absl::Status Named(const absl::Status& why) const { return Annotate(why, options_.path); }

  RebootOutgoingOptions options_;
  At at_ = At::kStart;
  UniqueFd always_;  // readable for ever, for the steps that wait for nobody
  std::unique_ptr<Command> command_;
  std::unique_ptr<StateStreamWriter> stream_;
  std::optional<Ownership> mark_;
  std::string state_;
  std::string gap_;  // zeros between the container and the RAM
  std::unique_ptr<ContainerWriter> writer_;
  std::vector<bool> copied_;
  // Of the blocks that are copied, in order; offsets count from where the RAM begins until Finish.
  std::vector<std::vector<RamExtent>> extents_;
  std::unique_ptr<RamCopyOut> finding_;
  bool whole_ = false;  // all bytes are in the stream
};

absl::Status RebootStreamOutgoing::Arm() {
  always_.Reset(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!always_.ok()) return ErrnoStatus(errno, "eventfd");
  return poller_.Watch(always_.get(), EPOLLIN);
}

absl::StatusOr<Outgoing::Next> RebootStreamOutgoing::Step() {
  switch (at_) {
    case At::kStart:
      return Start();
    case At::kPause:
      return PauseAndSave();
    case At::kFind:
      return Find();
    case At::kWrite:
      return Write();
    case At::kAwaitEnd:
      return AwaitEnd();
  }
  return absl::InternalError("a step that does not exist");
}

void RebootStreamOutgoing::Drop(const absl::Status&) {
  EndFinding();
  if (stream_ != nullptr) poller_.Forget(stream_->fd());
  if (command_ != nullptr) poller_.Forget(command_->process_fd());
  stream_.reset();
  command_.reset();
}

absl::StatusOr<Outgoing::Next> RebootStreamOutgoing::Start() {
  Enter(Phase::kCheck);
  CPR_RETURN_IF_ERROR(Collect());
  Enter(Phase::kPrepare);
  CPR_RETURN_IF_ERROR(Named(MakeMark()));
  CPR_RETURN_IF_ERROR(Named(OpenStream()));
  writer_ = std::make_unique<ContainerWriter>(&state_);
  CPR_RETURN_IF_ERROR(SaveSections(inventory_.sections, Stage::kEarly, *writer_));
  for (size_t i = 0; i < copied_.size(); ++i) {
    if (!copied_[i]) continue;
    ram_progress_.copy_bytes += inventory_.blocks[i].size_bytes();
    ram_progress_.in_place_bytes -= inventory_.blocks[i].size_bytes();
  }
  at_ = At::kPause;
  CPR_RETURN_IF_ERROR(SyncRamInPlace(inventory_, copied_));  // most of it while the guest runs
  return Next::kAgain;
}

absl::Status RebootStreamOutgoing::MakeMark() {
  const auto named = std::find_if(inventory_.blocks.begin(), inventory_.blocks.end(),
                                  [](const RamBlock& block) { return block.SurvivesReboot(); });
  std::string id;
  if (named != inventory_.blocks.end()) {
    CPR_ASSIGN_OR_RETURN(id, NewMarkId());
    CPR_ASSIGN_OR_RETURN(mark_, CreateRamMark(named->path(), id));
  }
  return AddRebootRam(inventory_, options_.ignore_shared, &copied_, id);
}

absl::Status RebootStreamOutgoing::OpenStream() {
  if (!options_.command.empty()) {
    CPR_ASSIGN_OR_RETURN(command_, Command::Start(options_.command, Command::Direction::kTakes));
    options_.stream = command_->TakePipe();
  }
  stream_ = std::make_unique<StateStreamWriter>(std::move(options_.stream));
  return absl::OkStatus();
}

absl::StatusOr<Outgoing::Next> RebootStreamOutgoing::PauseAndSave() {
  CPR_RETURN_IF_ERROR(PauseGuest());
  Enter(Phase::kSave);
  CPR_RETURN_IF_ERROR(SyncRamInPlace(inventory_, copied_));
  CPR_RETURN_IF_ERROR(SaveSections(inventory_.sections, Stage::kLate, *writer_));
  if (ram_progress_.copy_bytes == 0) return Finish();
  CPR_RETURN_IF_ERROR(StartFinding());
  at_ = At::kFind;
  return Next::kWait;
}

absl::Status RebootStreamOutgoing::StartFinding() {
  CPR_ASSIGN_OR_RETURN(finding_, RamCopyOut::StartFinding(SourcesToCopy(inventory_, copied_), options_.copy));
  poller_.Forget(always_.get());
  return poller_.Watch(finding_->fd(), EPOLLIN);
}

absl::StatusOr<Outgoing::Next> RebootStreamOutgoing::Find() {
  CPR_ASSIGN_OR_RETURN(const bool done, finding_->Advance());
  if (!done) return Next::kWait;
  extents_ = finding_->TakeExtents();
  EndFinding();
  CPR_RETURN_IF_ERROR(poller_.Watch(always_.get(), EPOLLIN));
  return Finish();
}

void RebootStreamOutgoing::EndFinding() {
  if (finding_ != nullptr) poller_.Forget(finding_->fd());
  finding_.reset();
}

absl::StatusOr<Outgoing::Next> RebootStreamOutgoing::Finish() {
  uint64_t list_bytes = kSectionBytes;  // and the trailer
  for (const std::vector<RamExtent>& extents : extents_) list_bytes += extents.size() * kExtentBytes + kSectionBytes;
  const uint64_t ram_begin_bytes = RoundUp(state_.size() + list_bytes, kPageBytes);
  for (std::vector<RamExtent>& extents : extents_) {
    for (RamExtent& extent : extents) extent.file_offset_bytes += ram_begin_bytes;
  }
  CPR_RETURN_IF_ERROR(AddRamCopySections(copied_, extents_, *writer_));
  CPR_RETURN_IF_ERROR(writer_->Finish());
  if (state_.size() > ram_begin_bytes) return absl::InternalError("the list of copied RAM is longer than foreseen");
  const bool carries_ram = std::any_of(extents_.begin(), extents_.end(), [](const auto& e) { return !e.empty(); });
  if (carries_ram) gap_.resize(ram_begin_bytes - state_.size());
  CPR_RETURN_IF_ERROR(Offer());
  QueueBytes();
  // A regular file cannot be polled, and need not be: then the eventfd goes on saying that there is work.
  if (poller_.Watch(stream_->fd(), EPOLLOUT).ok()) poller_.Forget(always_.get());
  if (command_ != nullptr) CPR_RETURN_IF_ERROR(poller_.Watch(command_->process_fd(), EPOLLIN));
  at_ = At::kWrite;
  return Next::kAgain;
}

// Before the first byte: whoever kills this process once the last one is out finds the guest in the stream. Nobody
// can take it before that, since nobody has the whole state.
absl::Status RebootStreamOutgoing::Offer() {
  OwnershipBlock offered;
  offered.word = static_cast<uint64_t>(Owner::kOffered);
  offered.changed_at_realtime_ns = static_cast<uint64_t>(RealtimeNs());
  std::memcpy(state_.data() + kOwnershipOffsetBytes, &offered, sizeof(offered));
  if (!mark_.has_value()) {
    CPR_ASSIGN_OR_RETURN(mark_, Ownership::Create());  // for Reclaim alone
  }
  mark_->Offer();
  ownership_ = std::move(mark_);
  return absl::OkStatus();
}

void RebootStreamOutgoing::QueueBytes() {
  stream_->Append(state_);
  stream_->Append(gap_);
  auto extents = extents_.begin();
  for (size_t i = 0; i < copied_.size(); ++i) {
    if (!copied_[i]) continue;
    for (const RamExtent& extent : *extents++) {
      stream_->Append(
          {reinterpret_cast<const char*>(inventory_.mapped[i]) + extent.ram_offset_bytes, extent.size_bytes});
    }
  }
}

absl::StatusOr<Outgoing::Next> RebootStreamOutgoing::Write() {
  const absl::StatusOr<bool> done = stream_->Pump();
  const uint64_t head_bytes = state_.size() + gap_.size();
  ram_progress_.copied_bytes = stream_->written_bytes() - std::min(stream_->written_bytes(), head_bytes);
  CPR_RETURN_IF_ERROR(Named(done.status()));
  whole_ = *done;
  if (!whole_ && (command_ == nullptr || absl::IsUnavailable(command_->Result()))) return Next::kWait;
  // All is written, or its reader has ended before that.
  poller_.Forget(stream_->fd());
  poller_.Forget(always_.get());
  Enter(Phase::kCommit);
  CPR_RETURN_IF_ERROR(Named(stream_->Close()));
  at_ = At::kAwaitEnd;
  return Next::kAgain;
}

absl::StatusOr<Outgoing::Next> RebootStreamOutgoing::AwaitEnd() {
  if (command_ != nullptr) {
    const absl::Status result = command_->Result();
    if (absl::IsUnavailable(result)) return Next::kWait;
    poller_.Forget(command_->process_fd());
    CPR_RETURN_IF_ERROR(Named(result));
    if (!whole_ || command_->unread_bytes() != 0) {
      return Named(absl::AbortedError("the command ended before it had read the whole state"));
    }
  }
  ram_progress_.copied_bytes = ram_progress_.copy_bytes;  // the rest is zeros
  Enter(Phase::kResume);
  ReleaseGuest();
  return Next::kDone;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Outgoing>> CreateRebootStreamOutgoing(RebootOutgoingOptions options, OutgoingVm* vm) {
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  auto outgoing = std::make_unique<RebootStreamOutgoing>(std::move(options), vm, std::move(poller));
  CPR_RETURN_IF_ERROR(outgoing->Arm());
  return outgoing;
}

}  // namespace cpr
