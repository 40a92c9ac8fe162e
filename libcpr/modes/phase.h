#ifndef LIBCPR_MODES_PHASE_H_
#define LIBCPR_MODES_PHASE_H_

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace cpr {

// How a guest changes hands. The names are QEMU's: "cpr-reboot", "cpr-transfer", "cpr-exec"; and ours: "cpr-luo".
enum class Mode { kUnspecified, kReboot, kTransfer, kExec, kLuo };
absl::string_view ModeName(Mode mode);

// True if the host's kernel may be another one when the guest runs again: what it held for the old VMM, connections,
// taps, devices, is made anew.
constexpr bool OutlivesKernel(Mode mode) { return mode == Mode::kReboot || mode == Mode::kLuo; }

// The six phases of a handover, the same in every mode. The guest is paused in kStop, kSave and kCommit.
enum class Phase { kCheck, kPrepare, kStop, kSave, kCommit, kResume };
constexpr int kPhaseCount = 6;
absl::string_view PhaseName(Phase phase);

// Nanoseconds of CLOCK_MONOTONIC and CLOCK_REALTIME.
int64_t MonotonicNs();
int64_t RealtimeNs();

// Measures the phases one after the other. Thread-compatible.
class PhaseClock {
 public:
  // Ends the phase that runs, if any, and begins `phase`.
  void Begin(Phase phase);
  // Ends the phase that runs.
  void End();
  Phase phase() const { return phase_; }
  // What each phase took so far, by the number of the phase; 0 for those not entered.
  const std::array<int64_t, kPhaseCount>& times_ns() const { return times_ns_; }
  // The same, with the phase that runs as far as it has come.
  std::array<int64_t, kPhaseCount> times_so_far_ns() const;
  void set_time_ns(Phase phase, int64_t ns) { times_ns_[static_cast<size_t>(phase)] = ns; }

 private:
  Phase phase_ = Phase::kCheck;
  int64_t began_ns_ = 0;
  std::array<int64_t, kPhaseCount> times_ns_{};
};

}  // namespace cpr

#endif  // LIBCPR_MODES_PHASE_H_
