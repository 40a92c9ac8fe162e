#ifndef VMM_CLIENT_VMM_PROCESS_H_
#define VMM_CLIENT_VMM_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// A VMM that this process started. Killed and reaped at the end of the object's life.
// Thread-compatible.
class VmmProcess {
 public:
  // Starts `command`, stdin at /dev/null, stdout and stderr appended to `log_path`.
  static absl::StatusOr<VmmProcess> Start(const std::vector<std::string>& command, const std::string& log_path);

  // Takes over a child of ours that we did not start: one that a VMM left behind (PR_SET_CHILD_SUBREAPER).
  static absl::StatusOr<VmmProcess> Adopt(pid_t pid);

  VmmProcess(VmmProcess&& other) noexcept;
  VmmProcess& operator=(VmmProcess&& other) noexcept;
  ~VmmProcess();

  pid_t pid() const { return pid_; }
  // False once it has ended.
  bool Alive() const;
  void Signal(int number) const;
  // Waits for its end and returns the exit code, or 128 + the signal's number. kDeadlineExceeded: it still runs.
  absl::StatusOr<int> Wait(absl::Duration timeout);

 private:
  VmmProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  void End();

  pid_t pid_ = -1;
  UniqueFd pidfd_;
};

}  // namespace cpr

#endif  // VMM_CLIENT_VMM_PROCESS_H_
