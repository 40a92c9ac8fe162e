#ifndef LIBCPR_MODES_INCOMING_H_
#define LIBCPR_MODES_INCOMING_H_

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/memory/ram_copy.h"
#include "libcpr/modes/outgoing.h"
#include "libcpr/modes/ownership.h"
#include "libcpr/modes/phase.h"
#include "libcpr/modes/poller.h"
#include "libcpr/modes/vm.h"
#include "libcpr/vmstate/container.h"
#include "proto/cpr/v1/handover.pb.h"

namespace cpr {

// A guest on its way in: waits for the old side (or reads its state), builds the machine, takes the guest and runs it.
// The same kind of state machine as Outgoing: poll fd(), call Advance(). Thread-compatible; one thread drives it.
class Incoming {
 public:
  virtual ~Incoming() = default;

  // Readable when Advance() has something to do. Lent, valid for the object's life.
  int fd() const { return poller_.fd(); }

  // Goes on as far as possible. true: the guest is ours and IncomingVm::Run has been called. false: call again when
  // fd() is readable. Error: the guest is not ours and must not run here; final.
  absl::StatusOr<bool> Advance();

  // Advance() to the end, blocking.
  absl::Status Run();

  Mode mode() const { return mode_; }
  Phase phase() const { return clock_.phase(); }
  // Once the guest runs: stop, save, commit and resume are pause_ns(), whichever side spent them.
  const std::array<int64_t, kPhaseCount>& phase_times_ns() const { return clock_.times_ns(); }
  // How long the guest stood still, from the old side's Pause to Run. 0 before that.
  int64_t pause_ns() const { return pause_ns_; }
  using RamProgress = Outgoing::RamProgress;
  RamProgress ram_progress() const;

 protected:
  enum class Next { kAgain, kWait, kDone };

  Incoming(Mode mode, IncomingVm* vm, PhaseObserver observer, Poller poller)
      : mode_(mode), vm_(vm), observer_(std::move(observer)), poller_(std::move(poller)) {}

  virtual absl::StatusOr<Next> Step() = 0;
  // The swap that makes the guest ours.
  virtual bool Take() { return ownership_->Take(); }
  // The handover is over without success: tells the other side, if there is one.
  virtual void Drop(const absl::Status& why) = 0;

  void Enter(Phase phase);
  // check: one error that names every section that this program cannot read.
  absl::Status CheckSections(const std::vector<SectionInfo>& claims);
  absl::Status CheckSections(const ContainerReader& reader);
  // Before Build: private RAM that was copied into the state, which is `file` (lent), is mapped from there
  // (mapped_ram.h).
  void MapCopiedFrom(int file) { map_file_ = file; }
  // prepare: loads the early sections (`also` are the mode's own) and has the machine built on the RAM and the fds.
  absl::Status Build(const ContainerReader& reader, FdTable fds, std::vector<Section> also = {});
  // save: loads and validates all late sections, then applies. Where RAM is copied in between, in steps: Load,
  // StartCopy from `ram_fd` (lent), AdvanceCopy until it is true (false: when fd() is readable), Apply.
  absl::Status Restore(const ContainerReader& reader);
  absl::Status Load(const ContainerReader& reader);
  absl::Status StartCopy(int ram_fd, const RamCopyOptions& options);
  absl::StatusOr<bool> AdvanceCopy();
  absl::Status Apply();
  // commit and resume. kFailedPrecondition: the old side has taken the guest back.
  absl::Status TakeAndRun();

  const Mode mode_;
  IncomingVm* const vm_;
  const PhaseObserver observer_;
  Poller poller_;
  PhaseClock clock_;
  std::optional<Ownership> ownership_;

 private:
  absl::Status LoadEarly(const ContainerReader& reader, std::vector<Section> also);
  absl::Status AddLateSections();
  absl::StatusOr<bool> MapCopied(int index, const ContainerReader& reader);
  absl::StatusOr<std::vector<RamCopyIn::Target>> MapTargets();
  void SumUpPhases();

  Inventory arrived_;
  v1::RamState ram_;
  v1::HandoverState handover_;
  std::vector<v1::RamCopyState> ram_copies_;  // by block; of copied blocks only the index counts
  // What a copied block's pages go into: the file under it, and where it begins there, which need not be where it began
  // in the old program's.
  struct CopiedBlock {
    UniqueFd fd;
    uint64_t offset_bytes = 0;
  };
  std::vector<CopiedBlock> copied_blocks_;  // by block; of the others nothing
  int map_file_ = -1;
  std::vector<bool>
      copied_;  // those to be copied here, by block: less than were copied into the state if some are mapped
  RamProgress ram_progress_;
  UniqueFd ram_fd_;
  std::vector<Mapping> copy_mappings_;  // kept to the end: unmapping takes time
  std::unique_ptr<RamCopyIn> copy_;
  int64_t pause_ns_ = 0;
  bool over_ = false;
};

}  // namespace cpr

#endif  // LIBCPR_MODES_INCOMING_H_
