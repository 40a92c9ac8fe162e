#include "libcpr/modes/outgoing.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/own_sections.h"

namespace cpr {

absl::StatusOr<bool> Outgoing::Advance() {
  if (over_) return absl::FailedPreconditionError("this handover is over");
  for (;;) {
    const absl::StatusOr<Next> next = Step();
    if (!next.ok()) return Fail(next.status());
    if (*next == Next::kWait) return false;
    if (*next == Next::kDone) {
      clock_.End();
      over_ = true;
      return true;
    }
  }
}

absl::Status Outgoing::Run() {
  for (;;) {
    CPR_ASSIGN_OR_RETURN(const bool done, Advance());
    if (done) return absl::OkStatus();
    CPR_RETURN_IF_ERROR(poller_.Wait());
  }
}

absl::Status Outgoing::Cancel() {
  if (over_) return absl::FailedPreconditionError("this handover is over");
  const absl::StatusOr<bool> gone = Fail(absl::CancelledError("the handover was cancelled"));
  if (gone.ok()) return absl::FailedPreconditionError("too late to cancel: the guest runs in the new VMM");
  return gone.status();
}

absl::Status Outgoing::Reclaim() {
  if (!ownership_.has_value()) return absl::FailedPreconditionError("the guest has not been handed over");
  if (ownership_->TakeBack()) return absl::OkStatus();
  const absl::Time when = absl::FromUnixNanos(ownership_->changed_at_realtime_ns());
  return absl::FailedPreconditionError(
      absl::StrCat("the guest has been resumed elsewhere, at ", absl::FormatTime(when, absl::LocalTimeZone())));
}

int64_t Outgoing::pause_ns() const {
  if (paused_at_ns_ == 0) return 0;
  return (paused_until_ns_ != 0 ? paused_until_ns_ : MonotonicNs()) - paused_at_ns_;
}

void Outgoing::Enter(Phase phase) {
  clock_.Begin(phase);
  if (observer_) observer_(phase);
}

absl::Status Outgoing::Collect() {
  const std::vector<std::string> blockers = vm_->Blockers(mode_);
  if (!blockers.empty()) return absl::FailedPreconditionError(absl::StrJoin(blockers, "; "));
  CPR_RETURN_IF_ERROR(vm_->Describe(mode_, inventory_));
  for (const RamBlock& block : inventory_.blocks) ram_progress_.in_place_bytes += block.size_bytes();
  return inventory_.sections.Add(SaveOnly(OwnSectionInfo(kHandoverSection, Stage::kLate),
                                          [this](std::string* payload) { return SaveHandover(payload); }));
}

absl::Status Outgoing::SaveHandover(std::string* payload) const {
  v1::HandoverState state;
  state.set_mode(ModeToProto(mode_));
  state.set_paused_at_monotonic_ns(paused_at_ns_);
  state.set_paused_at_realtime_ns(RealtimeNs() - (MonotonicNs() - paused_at_ns_));
  for (const int64_t ns : clock_.times_so_far_ns()) state.add_phase_ns(ns);
  state.AppendToString(payload);
  return absl::OkStatus();
}

absl::Status Outgoing::PauseGuest() {
  Enter(Phase::kStop);
  paused_at_ns_ = MonotonicNs();
  CPR_RETURN_IF_ERROR(vm_->Pause());
  paused_ = true;
  return absl::OkStatus();
}

void Outgoing::ReleaseGuest() {
  paused_until_ns_ = MonotonicNs();
  paused_ = false;
  vm_->Release();
}

bool Outgoing::ResumeGuest() {
  if (!paused_) return true;
  // Once the guest is offered, only the swap decides whether it is still ours.
  if (ownership_.has_value() && ownership_->owner() != Owner::kOld && !ownership_->TakeBack()) return false;
  paused_ = false;
  vm_->Resume();
  paused_until_ns_ = MonotonicNs();
  return true;
}

absl::StatusOr<bool> Outgoing::Fail(const absl::Status& why) {
  over_ = true;
  const bool ours = ResumeGuest();
  Drop(why);
  clock_.End();
  if (ours) return why;
  // The peer took the guest before it went silent: the handover has succeeded, whatever failed afterwards.
  ReleaseGuest();
  return true;
}

}  // namespace cpr
