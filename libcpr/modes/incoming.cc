#include "libcpr/modes/incoming.h"

#include <sys/epoll.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/mapped_ram.h"
#include "libcpr/modes/own_sections.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {

absl::StatusOr<bool> Incoming::Advance() {
  if (over_) return absl::FailedPreconditionError("this handover is over");
  for (;;) {
    const absl::StatusOr<Next> next = Step();
    if (next.ok() && *next == Next::kAgain) continue;
    if (next.ok() && *next == Next::kWait) return false;
    over_ = true;
    clock_.End();
    if (next.ok()) return true;
    Drop(next.status());
    return next.status();
  }
}

absl::Status Incoming::Run() {
  for (;;) {
    CPR_ASSIGN_OR_RETURN(const bool done, Advance());
    if (done) return absl::OkStatus();
    CPR_RETURN_IF_ERROR(poller_.Wait());
  }
}

void Incoming::Enter(Phase phase) {
  clock_.Begin(phase);
  if (observer_) observer_(phase);
}

absl::Status Incoming::CheckSections(const std::vector<SectionInfo>& claims) {
  std::vector<SectionSupport> support = vm_->Supported();
  for (SectionSupport& own : OwnSupport()) support.push_back(std::move(own));
  return CheckReadable(claims, support);
}

absl::Status Incoming::CheckSections(const ContainerReader& reader) {
  std::vector<SectionInfo> infos;
  for (const ContainerReader::View& view : reader.sections()) infos.push_back(view.info);
  return CheckSections(infos);
}

absl::Status Incoming::LoadEarly(const ContainerReader& reader, std::vector<Section> also) {
  SectionRegistry early;
  CPR_RETURN_IF_ERROR(vm_->RegisterEarly(early));
  for (Section& section : also) CPR_RETURN_IF_ERROR(early.Add(std::move(section)));
  CPR_RETURN_IF_ERROR(early.Add(
      LoadOnly(OwnSectionInfo(kRamSection, Stage::kEarly), [this](absl::string_view payload, uint32_t version) {
        return DecodeProtoInto(payload, version, kOwnVersion, &ram_);
      })));
  CPR_RETURN_IF_ERROR(LoadSections(early, Stage::kEarly, reader));
  return ApplySections(early, Stage::kEarly);
}

absl::Status Incoming::Build(const ContainerReader& reader, FdTable fds, std::vector<Section> also) {
  CPR_RETURN_IF_ERROR(LoadEarly(reader, std::move(also)));
  arrived_.fds = std::move(fds);
  CPR_ASSIGN_OR_RETURN(arrived_.blocks, BlocksFromState(mode_, ram_, arrived_.fds));
  for (int i = 0; i < ram_.blocks_size(); ++i) {
    CPR_ASSIGN_OR_RETURN(const bool mapped, MapCopied(i, reader));
    copied_.push_back(ram_.blocks(i).copied() && !mapped);
    copied_blocks_.emplace_back();
    const uint64_t size_bytes = ram_.blocks(i).layout().size_bytes();
    (copied_.back() ? ram_progress_.copy_bytes : ram_progress_.in_place_bytes) += size_bytes;
    if (!copied_.back()) continue;
    const RamBlock& block = arrived_.blocks[static_cast<size_t>(i)];
    CPR_ASSIGN_OR_RETURN(copied_blocks_.back().fd, block.DupFd());
    copied_blocks_.back().offset_bytes = block.offset_bytes();
  }
  CPR_RETURN_IF_ERROR(vm_->Build(arrived_));
  return AddLateSections();
}

absl::StatusOr<bool> Incoming::MapCopied(int index, const ContainerReader& reader) {
  if (map_file_ < 0) return false;
  CPR_ASSIGN_OR_RETURN(std::optional<RamBlock> mapped, MapCopiedBlock(ram_, index, reader, map_file_));
  if (!mapped.has_value()) return false;
  arrived_.blocks[static_cast<size_t>(index)] = *std::move(mapped);
  return true;
}

absl::Status Incoming::AddLateSections() {
  ram_copies_.resize(copied_.size());
  for (size_t i = 0; i < copied_.size(); ++i) {
    if (!ram_.blocks(static_cast<int>(i)).copied()) continue;
    CPR_RETURN_IF_ERROR(
        arrived_.sections.Add(LoadOnly(OwnSectionInfo(kRamCopySection, Stage::kLate, static_cast<uint32_t>(i)),
                                       [this, i](absl::string_view payload, uint32_t version) {
                                         return DecodeProtoInto(payload, version, kOwnVersion, &ram_copies_[i]);
                                       })));
  }
  v1::HandoverState::descriptor();  // made on first use: not while the guest stands still
  return arrived_.sections.Add(
      LoadOnly(OwnSectionInfo(kHandoverSection, Stage::kLate), [this](absl::string_view payload, uint32_t version) {
        return DecodeProtoInto(payload, version, kOwnVersion, &handover_);
      }));
}

absl::Status Incoming::Restore(const ContainerReader& reader) {
  CPR_RETURN_IF_ERROR(Load(reader));
  return Apply();
}

absl::Status Incoming::Load(const ContainerReader& reader) {
  Enter(Phase::kSave);
  return LoadSections(arrived_.sections, Stage::kLate, reader);
}

absl::Status Incoming::Apply() { return ApplySections(arrived_.sections, Stage::kLate); }

absl::StatusOr<std::vector<RamCopyIn::Target>> Incoming::MapTargets() {
  std::vector<RamCopyIn::Target> targets;
  for (size_t i = 0; i < copied_.size(); ++i) {
    if (!copied_[i]) continue;
    const v1::RamBlockDescriptor& layout = ram_.blocks(static_cast<int>(i)).layout();
    const int fd = copied_blocks_[i].fd.get();
    const uint64_t offset_bytes = copied_blocks_[i].offset_bytes;
    CPR_ASSIGN_OR_RETURN(Mapping ram, Mapping::Create(fd, offset_bytes, layout.size_bytes()));
    targets.push_back({layout.name(), {ram.data(), ram.size_bytes(), fd, offset_bytes}});
    for (const v1::RamExtent& extent : ram_copies_[i].extents())
      targets.back().extents.push_back(RamExtentFromProto(extent));
    copy_mappings_.push_back(std::move(ram));
  }
  return targets;
}

absl::Status Incoming::StartCopy(int ram_fd, const RamCopyOptions& options) {
  CPR_ASSIGN_OR_RETURN(std::vector<RamCopyIn::Target> targets, MapTargets());
  if (targets.empty()) return absl::OkStatus();
  CPR_ASSIGN_OR_RETURN(ram_fd_, DupFd(ram_fd));
  CPR_ASSIGN_OR_RETURN(copy_, RamCopyIn::Start(std::move(targets), ram_fd_.get(), options));
  return poller_.Watch(copy_->fd(), EPOLLIN);
}

absl::StatusOr<bool> Incoming::AdvanceCopy() {
  if (copy_ == nullptr) return true;
  CPR_ASSIGN_OR_RETURN(const bool done, copy_->Advance());
  if (!done) return false;
  ram_progress_.copied_bytes = copy_->done_bytes();
  poller_.Forget(copy_->fd());
  copy_.reset();
  ram_fd_.Reset();
  copied_blocks_.clear();
  return true;
}

Incoming::RamProgress Incoming::ram_progress() const {
  RamProgress progress = ram_progress_;
  if (copy_ != nullptr) progress.copied_bytes = copy_->done_bytes();
  return progress;
}

absl::Status Incoming::TakeAndRun() {
  Enter(Phase::kCommit);  // that the old side has offered the guest; this side has nothing more to do in it
  Enter(Phase::kResume);
  // Nothing comes between the swap and the run: dying there would lose a guest that has not moved on.
  if (!Take()) {
    return absl::FailedPreconditionError("the old side has taken the guest back: it must not run here");
  }
  vm_->Run();
  clock_.End();
  // The monotonic clock begins anew when the host boots: over a reboot only the wall clock tells.
  const bool by_wall = OutlivesKernel(mode_);
  const int64_t now_ns = by_wall ? RealtimeNs() : MonotonicNs();
  const int64_t paused_at_ns = by_wall ? handover_.paused_at_realtime_ns() : handover_.paused_at_monotonic_ns();
  pause_ns_ = now_ns - std::clamp<int64_t>(paused_at_ns, 0, now_ns);
  SumUpPhases();
  return absl::OkStatus();
}

// Up to save they are the old side's, which has waited for this one's. The commit is the rest of the pause: what
// becomes of the state until the guest is taken, in cpr-exec and cpr-reboot with the building of the new machine.
void Incoming::SumUpPhases() {
  // So that no sum of what a peer says overflows.
  constexpr int64_t kMostNs = std::numeric_limits<int64_t>::max() / kPhaseCount;
  int64_t told_ns[kPhaseCount] = {};
  for (int i = 0; i < std::min(handover_.phase_ns_size(), kPhaseCount); ++i) {
    told_ns[i] = std::clamp<int64_t>(handover_.phase_ns(i), 0, kMostNs);
  }
  for (const Phase phase : {Phase::kCheck, Phase::kPrepare, Phase::kStop, Phase::kSave}) {
    clock_.set_time_ns(phase, told_ns[static_cast<size_t>(phase)]);
  }
  const std::array<int64_t, kPhaseCount>& times_ns = clock_.times_ns();
  const auto time_ns = [&](Phase phase) { return times_ns[static_cast<size_t>(phase)]; };
  const int64_t rest_ns = pause_ns_ - time_ns(Phase::kStop) - time_ns(Phase::kSave) - time_ns(Phase::kResume);
  clock_.set_time_ns(Phase::kCommit, std::max<int64_t>(rest_ns, 0));
}

}  // namespace cpr
