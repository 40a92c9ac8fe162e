#ifndef TESTS_DRIVER_TERMINAL_H_
#define TESTS_DRIVER_TERMINAL_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "libcpr/base/unique_fd.h"
#include "vmm/client/vmm_process.h"

namespace cpr {

// A VMM with its human monitor on stdio, and who types there. Thread-compatible.
class Terminal {
 public:
  // stdin and stdout at pipes, or both (and stderr) at a pseudo terminal; without one stderr goes to `log_path`.
  static absl::StatusOr<Terminal> StartOnPipes(const std::vector<std::string>& command, const std::string& log_path);
  static absl::StatusOr<Terminal> StartOnPty(const std::vector<std::string>& command);

  // What is written up to the next prompt, without it. kUnavailable, with what came: the program has ended.
  absl::StatusOr<std::string> ReadToPrompt(absl::Duration timeout = absl::Seconds(20));
  // Types `line` and returns what is written up to the next prompt.
  absl::StatusOr<std::string> Ask(absl::string_view line);
  // Types `line` and awaits no answer.
  absl::Status Type(absl::string_view line);
  // Asks `line` again and again until the answer is `answer`; kDeadlineExceeded with the last one.
  absl::Status AskUntil(absl::string_view line, absl::string_view answer, absl::Duration timeout = absl::Seconds(20));

  VmmProcess& process() { return process_; }

 private:
  Terminal(VmmProcess process, UniqueFd in, UniqueFd out)
      : process_(std::move(process)), in_(std::move(in)), out_(std::move(out)) {}

  VmmProcess process_;
  UniqueFd in_;   // to write to
  UniqueFd out_;  // to read from
  std::string read_;
};

}  // namespace cpr

#endif  // TESTS_DRIVER_TERMINAL_H_
