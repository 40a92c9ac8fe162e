#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libcpr/base/io.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/ram_copy.h"
#include "libcpr/modes/copied_ram.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/reboot.h"
#include "libcpr/modes/reboot_stream.h"
#include "libcpr/modes/state_file.h"
#include "libcpr/vmstate/container.h"

namespace cpr {
namespace {

constexpr uint64_t kPageBytes = 4096;
// Copied RAM begins behind the state, at a boundary that suits huge pages and direct I/O.
constexpr uint64_t kRamAlignmentBytes = 2 << 20;
constexpr uint64_t kExtentBytes = 40;  // encoded, at most

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

class RebootOutgoing : public Outgoing {
 public:
  RebootOutgoing(RebootOutgoingOptions options, OutgoingVm* vm, Poller poller)
      : Outgoing(Mode::kReboot, vm, std::move(options.observer), std::move(poller)), options_(std::move(options)) {}

  absl::Status Arm();

 private:
  enum class At { kStart, kPause, kCopy, kPublish };

  absl::StatusOr<Next> Step() override;
  void Drop(const absl::Status&) override;

  absl::StatusOr<Next> Start();
  absl::StatusOr<Next> PauseAndSave();
  absl::StatusOr<Next> Copy();
  absl::StatusOr<Next> Publish();
  absl::Status StartCopy();
  void EndCopy();

  const RebootOutgoingOptions options_;
  At at_ = At::kStart;
  UniqueFd always_;  // readable for ever: this mode waits for nobody
  std::optional<StateFile> file_;
  std::string state_;
  std::unique_ptr<ContainerWriter> writer_;
  std::vector<bool> copied_;
  std::vector<std::vector<RamExtent>> extents_;  // of the blocks that are copied, in order
  std::unique_ptr<RamCopyOut> copy_;
};

absl::Status RebootOutgoing::Arm() {
  always_.Reset(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!always_.ok()) return ErrnoStatus(errno, "eventfd");
  return poller_.Watch(always_.get(), EPOLLIN);
}

absl::StatusOr<Outgoing::Next> RebootOutgoing::Step() {
  switch (at_) {
    case At::kStart:
      return Start();
    case At::kPause:
      return PauseAndSave();
    case At::kCopy:
      return Copy();
    case At::kPublish:
      return Publish();
  }
  return absl::InternalError("a step that does not exist");
}

absl::StatusOr<Outgoing::Next> RebootOutgoing::Start() {
  Enter(Phase::kCheck);
  CPR_RETURN_IF_ERROR(Collect());
  CPR_RETURN_IF_ERROR(AddRebootRam(inventory_, options_.ignore_shared, &copied_));
  Enter(Phase::kPrepare);
  CPR_ASSIGN_OR_RETURN(file_, StateFile::Create(options_.path, options_.offset_bytes));
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

absl::StatusOr<Outgoing::Next> RebootOutgoing::PauseAndSave() {
  CPR_RETURN_IF_ERROR(PauseGuest());
  Enter(Phase::kSave);
  CPR_RETURN_IF_ERROR(SyncRamInPlace(inventory_, copied_));
  CPR_RETURN_IF_ERROR(SaveSections(inventory_.sections, Stage::kLate, *writer_));
  at_ = At::kPublish;
  if (ram_progress_.copy_bytes == 0) return Next::kAgain;
  CPR_RETURN_IF_ERROR(StartCopy());
  at_ = At::kCopy;
  return Next::kWait;
}

absl::Status RebootOutgoing::StartCopy() {
  // The list of extents comes behind the sections so far and is not known yet: room for the longest one is left.
  const uint64_t list_bytes = ram_progress_.copy_bytes / kPageBytes * kExtentBytes + kPageBytes;
  uint64_t area_bytes = RoundUp(options_.offset_bytes + state_.size() + list_bytes, kRamAlignmentBytes);
  std::vector<RamCopyOut::Source> sources = SourcesToCopy(inventory_, copied_);
  for (RamCopyOut::Source& source : sources) {
    source.file_offset_bytes = area_bytes;
    area_bytes += RoundUp(source.ram.size_bytes, kRamAlignmentBytes);
  }
  CPR_ASSIGN_OR_RETURN(copy_, RamCopyOut::Start(std::move(sources), file_->fd(), options_.copy));
  poller_.Forget(always_.get());
  return poller_.Watch(copy_->fd(), EPOLLIN);
}

absl::StatusOr<Outgoing::Next> RebootOutgoing::Copy() {
  CPR_ASSIGN_OR_RETURN(const bool done, copy_->Advance());
  ram_progress_.copied_bytes = copy_->done_bytes();
  if (!done) return Next::kWait;
  extents_ = copy_->TakeExtents();
  EndCopy();
  at_ = At::kPublish;
  return Next::kAgain;
}

void RebootOutgoing::EndCopy() {
  if (copy_ != nullptr) poller_.Forget(copy_->fd());
  copy_.reset();
}

void RebootOutgoing::Drop(const absl::Status&) {
  EndCopy();
  file_.reset();
}

absl::StatusOr<Outgoing::Next> RebootOutgoing::Publish() {
  CPR_RETURN_IF_ERROR(AddRamCopySections(copied_, extents_, *writer_));
  CPR_RETURN_IF_ERROR(writer_->Finish());
  // From the moment that the file has its name, the guest may be taken from it: the word inside says offered.
  OwnershipBlock offered;
  offered.word = static_cast<uint64_t>(Owner::kOffered);
  offered.changed_at_realtime_ns = static_cast<uint64_t>(RealtimeNs());
  std::memcpy(state_.data() + kOwnershipOffsetBytes, &offered, sizeof(offered));
  CPR_RETURN_IF_ERROR(file_->Write(state_));
  CPR_ASSIGN_OR_RETURN(ownership_, Ownership::Map(file_->fd(), options_.offset_bytes + kOwnershipOffsetBytes, false));
  // The state is whole: named at once, so that it does not end with this process. Should anything fail from here on,
  // the word decides whether the guest is still ours.
  CPR_RETURN_IF_ERROR(file_->Publish());
  Enter(Phase::kCommit);
  CPR_RETURN_IF_ERROR(file_->SyncName());
  file_->Keep();
  Enter(Phase::kResume);
  ReleaseGuest();
  return Next::kDone;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Outgoing>> CreateRebootOutgoing(RebootOutgoingOptions options, OutgoingVm* vm) {
  if (!options.command.empty() || options.stream.ok()) return CreateRebootStreamOutgoing(std::move(options), vm);
  CPR_ASSIGN_OR_RETURN(Poller poller, Poller::Create());
  auto outgoing = std::make_unique<RebootOutgoing>(std::move(options), vm, std::move(poller));
  CPR_RETURN_IF_ERROR(outgoing->Arm());
  return outgoing;
}

}  // namespace cpr
