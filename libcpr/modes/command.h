#ifndef LIBCPR_MODES_COMMAND_H_
#define LIBCPR_MODES_COMMAND_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// A command that takes a state on its stdin or gives one on its stdout. It runs in a process group of its own, with
// default signals, no descriptor of ours but stdio, and what it writes to stderr is kept for the error.
// Thread-compatible. At the end of the object's life the whole group is killed, and the command reaped.
class Command {
 public:
  enum class Direction { kTakes, kGives };

  // Starts `argv`, looked up in PATH. "execvp %s failed: ..." if it cannot be started.
  static absl::StatusOr<std::unique_ptr<Command>> Start(const std::vector<std::string>& argv, Direction direction);
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  // Our end of the pipe, non-blocking; the caller's from then on. Closing it is the end of what the command takes.
  UniqueFd TakePipe() { return std::move(pipe_); }
  // kTakes: what of it the command has not read yet (or left, when it has ended). It is never told by a broken pipe.
  uint64_t unread_bytes() const;
  // Readable when the command has ended. Lent.
  int process_fd() const { return process_.get(); }

  // OK: it has ended with exit status 0. kUnavailable: it still runs. kAborted: how else it ended, with its words.
  absl::Status Result();

 private:
  Command(pid_t pid, UniqueFd pipe, UniqueFd its_end, UniqueFd words)
      : pid_(pid), pipe_(std::move(pipe)), its_end_(std::move(its_end)), words_(std::move(words)) {}
  absl::Status Describe(int wait_status) const;
  std::string Words() const;

  pid_t pid_;  // -1: reaped
  UniqueFd process_;
  UniqueFd pipe_;
  UniqueFd its_end_;  // kTakes: the end that it reads from
  UniqueFd words_;    // a memfd: the command's stderr
  absl::Status result_;
};

}  // namespace cpr

#endif  // LIBCPR_MODES_COMMAND_H_
