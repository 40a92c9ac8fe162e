#ifndef LIBCPR_MODES_OWNERSHIP_H_
#define LIBCPR_MODES_OWNERSHIP_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// Who may run the guest. The values are part of the wire format (docs/wire-format.md).
enum class Owner : uint64_t {
  kUnspecified = 0,
  kOld = 1,       // the old side's; it has not let go
  kOffered = 2,   // the state is whole; whoever swaps first has the guest
  kNew = 3,       // the new side's, for good
  kReturned = 4,  // cpr-exec: the keeper took it back for the old program, which is about to start again
};

// The word that says who owns the guest, in memory that both sides share: a sealed memfd (transfer) or the
// state's file itself (exec, reboot, luo). Every change is one compare-and-swap, so that exactly one side ever runs the
// guest, whoever is killed and whenever; no exchange of messages could promise that. Thread-safe.
class Ownership {
 public:
  // A new word in a sealed memfd of its own, kOld.
  static absl::StatusOr<Ownership> Create();

  // The word at `offset_bytes` (a multiple of 8) of `fd`, which the other side made. `fd` is lent and must be open for
  // reading and writing. kFailedPrecondition: a file too short, or (`sealed`) a memfd that a peer could shrink under
  // us.
  static absl::StatusOr<Ownership> Map(int fd, uint64_t offset_bytes, bool sealed);

  // The memfd to pass on; -1 for a mapped word. Lent.
  int fd() const { return fd_.get(); }
  Owner owner() const { return static_cast<Owner>(word()->load(std::memory_order_acquire)); }
  // CLOCK_REALTIME of the last change, 0 if never changed.
  int64_t changed_at_realtime_ns() const { return changed_at()->load(std::memory_order_relaxed); }

  // Old side: the state is whole, the new side may take it. True if the word was kOld.
  bool Offer() { return Swap(Owner::kOld, Owner::kOffered); }
  // New side, immediately before its first KVM_RUN. False: the old side has taken the guest back; never run it.
  bool Take() { return Swap(Owner::kOffered, Owner::kNew); }
  // The same for the old program of a cpr-exec that its keeper has started again.
  bool TakeReturned() { return Swap(Owner::kReturned, Owner::kNew); }
  // Old side, before it resumes. False: the guest runs in the new side; never run it.
  bool TakeBack() { return Swap(Owner::kOffered, Owner::kOld); }

  // For the keeper of cpr-exec, which does the swap of TakeBack itself.
  std::atomic<uint64_t>* word() const {
    return reinterpret_cast<std::atomic<uint64_t>*>(mapping_.data() + skip_bytes_);
  }

 private:
  Ownership(UniqueFd fd, Mapping mapping, uint64_t skip_bytes)
      : fd_(std::move(fd)), mapping_(std::move(mapping)), skip_bytes_(skip_bytes) {}
  bool Swap(Owner from, Owner to);
  std::atomic<int64_t>* changed_at() const { return reinterpret_cast<std::atomic<int64_t>*>(word() + 1); }

  UniqueFd fd_;
  Mapping mapping_;
  uint64_t skip_bytes_;  // from the mapping's page boundary to the word
};

// OK if the guest is offered. kFailedPrecondition: it was taken already, or taken back, and when; kDataLoss: the word
// says nothing.
absl::Status CheckOffered(const Ownership& ownership);

}  // namespace cpr

#endif  // LIBCPR_MODES_OWNERSHIP_H_
