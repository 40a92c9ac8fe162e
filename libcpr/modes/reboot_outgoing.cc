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
#include "libcpr/modes/own_sections.h"
#include "libcpr/modes/reboot.h"
#include "libcpr/modes/reboot_stream.h"
#include "libcpr/modes/state_file.h"
#include "libcpr/vmstate/container.h"

namespace cpr {
namespace {

constexpr uint64_t kPageBytes = 4096;
// How much of RAM one step copies, so that the embedder's loop gets its turn (and a cancel is heard).
constexpr uint64_t kStepBytes = 64 << 20;
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
  void Drop(const absl::Status&) override { file_.reset(); }

  absl::StatusOr<Next> Start();
  absl::StatusOr<Next> PauseAndSave();
  absl::StatusOr<Next> Copy();
  absl::StatusOr<Next> Publish();
  absl::Status CopyStep();
  absl::Status AddExtents(ContainerWriter& writer);

  const RebootOutgoingOptions options_;
  At at_ = At::kStart;
  UniqueFd always_;  // readable for ever: this mode waits for nobody
  std::optional<StateFile> file_;
  std::string state_;
  std::unique_ptr<ContainerWriter> writer_;
  std::vector<bool> copied_;
  std::vector<std::vector<RamExtent>> extents_;  // by block
  size_t block_ = 0;
  uint64_t block_done_bytes_ = 0;
  uint64_t ram_area_bytes_ = 0;  // where the present block's area begins in the file
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
  extents_.resize(inventory_.blocks.size());
  for (size_t i = 0; i < copied_.size(); ++i) {
    if (!copied_[i]) continue;
    ram_progress_.copy_bytes += inventory_.blocks[i].size_bytes();
    ram_progress_.in_place_bytes -= inventory_.blocks[i].size_bytes();
  }
  at_ = At::kPause;
  return Next::kAgain;
}

absl::StatusOr<Outgoing::Next> RebootOutgoing::PauseAndSave() {
  CPR_RETURN_IF_ERROR(PauseGuest());
  Enter(Phase::kSave);
  CPR_RETURN_IF_ERROR(SaveSections(inventory_.sections, Stage::kLate, *writer_));
  // The list of extents comes behind the sections so far and is not known yet: room for the longest one is left.
  const uint64_t list_bytes = ram_progress_.copy_bytes / kPageBytes * kExtentBytes + kPageBytes;
  ram_area_bytes_ = RoundUp(options_.offset_bytes + state_.size() + list_bytes, kRamAlignmentBytes);
  at_ = At::kCopy;
  return Next::kAgain;
}

absl::StatusOr<Outgoing::Next> RebootOutgoing::Copy() {
  while (block_ < copied_.size() && !copied_[block_]) ++block_;
  if (block_ == copied_.size()) {
    at_ = At::kPublish;
    return Next::kAgain;
  }
  const RamBlock& block = inventory_.blocks[block_];  // a finished step moves block_ on
  CPR_RETURN_IF_ERROR(Annotate(CopyStep(), absl::StrCat("RAM block '", block.name(), "'")));
  return Next::kWait;  // the embedder's loop comes first; the poll fd is readable at once
}

absl::Status RebootOutgoing::CopyStep() {
  const RamBlock& block = inventory_.blocks[block_];
  const uint64_t size_bytes = std::min(kStepBytes, block.size_bytes() - block_done_bytes_);
  const MappedRam ram = {inventory_.mapped[block_], block.size_bytes(), block.shared() ? block.fd() : -1,
                         block.offset_bytes()};
  CPR_ASSIGN_OR_RETURN(
      const std::vector<RamExtent> extents,
      CopyRamOut(ram, block_done_bytes_, block_done_bytes_ + size_bytes, file_->fd(), ram_area_bytes_));
  extents_[block_].insert(extents_[block_].end(), extents.begin(), extents.end());
  ram_progress_.copied_bytes += size_bytes;
  block_done_bytes_ += size_bytes;
  if (block_done_bytes_ == block.size_bytes()) {
    // The next block's area follows this one's.
    ram_area_bytes_ += RoundUp(block.size_bytes(), kRamAlignmentBytes);
    block_done_bytes_ = 0;
    ++block_;
  }
  return absl::OkStatus();
}

absl::Status RebootOutgoing::AddExtents(ContainerWriter& writer) {
  for (size_t i = 0; i < copied_.size(); ++i) {
    if (!copied_[i]) continue;
    CPR_RETURN_IF_ERROR(writer.Add(OwnSectionInfo(kRamCopySection, Stage::kLate, static_cast<uint32_t>(i)),
                                   [this, i](std::string* payload) {
                                     v1::RamCopyState state;
                                     for (const RamExtent& extent : extents_[i])
                                       *state.add_extents() = RamExtentToProto(extent);
                                     state.AppendToString(payload);
                                     return absl::OkStatus();
                                   }));
  }
  return absl::OkStatus();
}

absl::StatusOr<Outgoing::Next> RebootOutgoing::Publish() {
  CPR_RETURN_IF_ERROR(AddExtents(*writer_));
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
