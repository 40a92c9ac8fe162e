#include "libcpr/modes/phase.h"

#include <ctime>

namespace cpr {
namespace {

int64_t ClockNs(clockid_t clock) {
  timespec now;
  ::clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

absl::string_view ModeName(Mode mode) {
  switch (mode) {
    case Mode::kReboot:
      return "cpr-reboot";
    case Mode::kTransfer:
      return "cpr-transfer";
    case Mode::kExec:
      return "cpr-exec";
    case Mode::kLuo:
      return "cpr-luo";
    case Mode::kUnspecified:
      break;
  }
  return "unspecified";
}

absl::string_view PhaseName(Phase phase) {
  constexpr absl::string_view kNames[kPhaseCount] = {"check", "prepare", "stop", "save", "commit", "resume"};
  return kNames[static_cast<size_t>(phase)];
}

int64_t MonotonicNs() { return ClockNs(CLOCK_MONOTONIC); }
int64_t RealtimeNs() { return ClockNs(CLOCK_REALTIME); }

void PhaseClock::Begin(Phase phase) {
  End();
  phase_ = phase;
  began_ns_ = MonotonicNs();
}

void PhaseClock::End() {
  times_ns_ = times_so_far_ns();
  began_ns_ = 0;
}

std::array<int64_t, kPhaseCount> PhaseClock::times_so_far_ns() const {
  std::array<int64_t, kPhaseCount> times_ns = times_ns_;
  if (began_ns_ != 0) times_ns[static_cast<size_t>(phase_)] += MonotonicNs() - began_ns_;
  return times_ns;
}

}  // namespace cpr
