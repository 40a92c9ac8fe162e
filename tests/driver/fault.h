#ifndef TESTS_DRIVER_FAULT_H_
#define TESTS_DRIVER_FAULT_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "libcpr/modes/outgoing.h"

namespace cpr {

// Faults at an exact moment of a handover: a program started with CPR_FAULT=PHASE:ACTION in its environment does ACTION
// when it enters PHASE. kill: SIGKILL to itself. crash: SIGSEGV. exit: ends with code 3. stop: SIGSTOP, until somebody
// sends SIGCONT. Once, and not in the programs that it starts: the variable is gone from its environment then.

// The observer that does it; null if the environment asks for nothing. Ends the program if it asks for nonsense.
PhaseObserver FaultFromEnvironment();

// The words to put before a command for it: "/usr/bin/env", "CPR_FAULT=save:kill".
std::vector<std::string> FaultPrefix(Phase phase, absl::string_view action);

// Waits until the child `pid` has stopped itself. kDeadlineExceeded.
absl::Status AwaitStopped(pid_t pid, absl::Duration timeout);

}  // namespace cpr

#endif  // TESTS_DRIVER_FAULT_H_
