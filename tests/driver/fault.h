#ifndef TESTS_DRIVER_FAULT_H_
#define TESTS_DRIVER_FAULT_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "libcpr/modes/outgoing.h"
#include "libcpr/vmstate/section_info.h"

namespace cpr {

// Faults at an exact moment of a handover: a program started with CPR_FAULT=PHASE:ACTION in its environment does ACTION
// when it enters PHASE. kill: SIGKILL to itself. crash: SIGSEGV. exit: ends with code 3. stop: SIGSTOP, until somebody
// sends SIGCONT. Once, and not in the programs that it starts: the variable is gone from its environment then.

// The observer that does it; null if the environment asks for nothing. Ends the program if it asks for nonsense.
PhaseObserver FaultFromEnvironment();

// A program that reads other sections than it should: CPR_READS=NAME=VERSION in the environment of a program has it
// know section NAME up to VERSION, "NAME=" not at all. Null if the environment asks for nothing.
std::function<void(std::vector<SectionSupport>&)> ReadsFromEnvironment();
// The words to put before a command for it: "/usr/bin/env", "CPR_READS=serial=0".
std::vector<std::string> ReadsPrefix(absl::string_view section, absl::string_view version);

// The words to put before a command for a fault: "/usr/bin/env", "CPR_FAULT=save:kill".
std::vector<std::string> FaultPrefix(Phase phase, absl::string_view action);

// Waits until the child `pid` has stopped itself. kDeadlineExceeded.
absl::Status AwaitStopped(pid_t pid, absl::Duration timeout);

}  // namespace cpr

#endif  // TESTS_DRIVER_FAULT_H_
