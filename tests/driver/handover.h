#ifndef TESTS_DRIVER_HANDOVER_H_
#define TESTS_DRIVER_HANDOVER_H_

#include <sys/types.h>

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "libcpr/modes/phase.h"

namespace cpr {

// One handover as seen from outside, and beside it what the VMM says of it.
struct Handover {
  Mode mode = Mode::kUnspecified;
  int64_t guest_pause_ns = 0;                    // longest time in which the guest's beat stood still
  int64_t total_ns = 0;                          // from `migrate` to the first beat seen in the new VMM
  std::array<int64_t, kPhaseCount> phases_ns{};  // query-migrate's x-phases
  pid_t pid_before = -1;
  pid_t pid_after = -1;
  absl::Status verdict;  // the guest's
};

}  // namespace cpr

#endif  // TESTS_DRIVER_HANDOVER_H_
