#ifndef LIBCPR_MODES_EXEC_CHECK_H_
#define LIBCPR_MODES_EXEC_CHECK_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libcpr/modes/handover_channel.h"

namespace cpr {

// The check phase of cpr-exec: a child process that is the new program, asked whether it can read the sections.
// Thread-compatible. The child is killed and reaped at the end of the object's life.
class ExecCheck {
 public:
  // Starts `command` with stdin and stdout at /dev/null and sends the question. "execvp %s failed: ..." if it cannot be
  // started.
  static absl::StatusOr<std::unique_ptr<ExecCheck>> Start(const std::vector<std::string>& command,
                                                          const std::vector<SectionInfo>& sections);
  ~ExecCheck();

  // Readable when Answer() will have something. Lent.
  int fd() const { return channel_.fd(); }

  // OK: the program can take over. kUnavailable: no answer yet. Else why not.
  absl::Status Answer();

 private:
  ExecCheck(HandoverChannel channel, pid_t pid, std::string program)
      : channel_(std::move(channel)), pid_(pid), program_(std::move(program)) {}
  absl::Status DescribeEnd();

  HandoverChannel channel_;
  pid_t pid_;
  std::string program_;
};

}  // namespace cpr

#endif  // LIBCPR_MODES_EXEC_CHECK_H_
