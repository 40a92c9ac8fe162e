#ifndef LIBCPR_MODES_OUTGOING_H_
#define LIBCPR_MODES_OUTGOING_H_

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libcpr/modes/ownership.h"
#include "libcpr/modes/phase.h"
#include "libcpr/modes/poller.h"
#include "libcpr/modes/vm.h"

namespace cpr {

// Called when a phase begins. For progress displays, and for tests that let a side die at a given moment.
using PhaseObserver = std::function<void(Phase)>;

// A guest on its way out: one handover, in one of the modes (CreateTransferOutgoing and its like make one).
// A state machine that never blocks for long before the guest is paused: poll fd() for reading, then call Advance().
// Whatever fails before the commit leaves the guest as it was in this process. Thread-compatible; one thread drives it.
class Outgoing {
 public:
  virtual ~Outgoing() = default;

  // Readable when Advance() has something to do. Lent, valid for the object's life.
  int fd() const { return poller_.fd(); }

  // Goes on as far as possible. true: the guest has gone and OutgoingVm::Release has been called. false: call again
  // when fd() is readable. Error: the handover failed and was rolled back, the guest is as it was before; final.
  absl::StatusOr<bool> Advance();

  // Advance() to the end, blocking.
  absl::Status Run();

  // Calls the handover off: kCancelled when it was rolled back, kFailedPrecondition when the guest has gone already.
  absl::Status Cancel();

  // After a cpr-reboot or cpr-luo that has succeeded: its user wants the guest to go on here after all. OK: the state
  // is void now, and the embedder may run the guest. kFailedPrecondition: it has been resumed elsewhere (the error says
  // when).
  absl::Status Reclaim();

  Phase phase() const { return clock_.phase(); }
  // What each phase took, also of the ones that the new side reported.
  const std::array<int64_t, kPhaseCount>& phase_times_ns() const { return clock_.times_ns(); }
  // From Pause to the guest's running elsewhere, or up to now.
  int64_t pause_ns() const;
  // The guest's RAM: how much stays where it is, how much has to be copied, and how much of that is done.
  struct RamProgress {
    uint64_t in_place_bytes = 0;
    uint64_t copy_bytes = 0;
    uint64_t copied_bytes = 0;
  };
  const RamProgress& ram_progress() const { return ram_progress_; }

 protected:
  enum class Next { kAgain, kWait, kDone };

  Outgoing(Mode mode, OutgoingVm* vm, PhaseObserver observer, Poller poller)
      : mode_(mode), vm_(vm), observer_(std::move(observer)), poller_(std::move(poller)) {}

  // One step of the mode.
  virtual absl::StatusOr<Next> Step() = 0;
  // The handover is over without success: drops the peer, tells it why. The guest is resumed by the caller.
  virtual void Drop(const absl::Status& why) = 0;

  void Enter(Phase phase);
  // check: asks the embedder for blockers, then for the inventory, to which it adds "cpr/handover".
  absl::Status Collect();
  // stop: pauses the guest.
  absl::Status PauseGuest();
  // After the commit: the guest is another's.
  void ReleaseGuest();

  const Mode mode_;
  OutgoingVm* const vm_;
  const PhaseObserver observer_;
  Poller poller_;
  PhaseClock clock_;
  Inventory inventory_;
  RamProgress ram_progress_;
  std::optional<Ownership> ownership_;

 private:
  absl::StatusOr<bool> Fail(const absl::Status& why);
  // Resumes the guest if it was paused. False when the new side has taken the guest: nothing may run here.
  bool ResumeGuest();
  absl::Status SaveHandover(std::string* payload) const;

  bool paused_ = false;
  bool over_ = false;
  int64_t paused_at_ns_ = 0;
  int64_t paused_until_ns_ = 0;
};

}  // namespace cpr

#endif  // LIBCPR_MODES_OUTGOING_H_
