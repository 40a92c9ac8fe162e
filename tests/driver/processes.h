#ifndef TESTS_DRIVER_PROCESSES_H_
#define TESTS_DRIVER_PROCESSES_H_

#include <sys/types.h>

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace cpr {

// What processes a test has below itself, read from /proc: for tests that count who is left.

// Has every orphan of this process's children become its own child: none escapes the count.
void AdoptOrphans();

// All children of this process, their children and so on; zombies, too.
std::set<pid_t> Descendants();

// The child of `parent` that is called `name` (as in /proc/PID/comm). kNotFound.
absl::StatusOr<pid_t> ChildOfName(pid_t parent, const std::string& name);

// Waits until Descendants() is `wanted`, reaping others that end. kDeadlineExceeded names who is left, or lacking.
absl::Status AwaitDescendants(const std::set<pid_t>& wanted, absl::Duration timeout);

}  // namespace cpr

#endif  // TESTS_DRIVER_PROCESSES_H_
