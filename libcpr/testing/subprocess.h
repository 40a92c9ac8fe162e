#ifndef LIBCPR_TESTING_SUBPROCESS_H_
#define LIBCPR_TESTING_SUBPROCESS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace cpr::testing {

struct SubprocessResult {
  int pid = -1;
  int exit_code = -1;  // 128 + signal if it was killed
  std::string output;  // stdout and stderr, of it and of whatever it left behind, until the last of them ended
};

// Runs `command` (looked up in PATH) to its end, stdin at /dev/null.
absl::StatusOr<SubprocessResult> RunSubprocess(const std::vector<std::string>& command);

}  // namespace cpr::testing

#endif  // LIBCPR_TESTING_SUBPROCESS_H_
