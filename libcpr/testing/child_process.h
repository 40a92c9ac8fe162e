#ifndef LIBCPR_TESTING_CHILD_PROCESS_H_
#define LIBCPR_TESTING_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace cpr::testing {

// A child that runs `command` (see HelperCommand) with stdio and the descriptors of `inherited`, which keep their
// numbers. Killed and reaped at the end, if it still runs.
class ChildProcess {
 public:
  explicit ChildProcess(std::vector<std::string> command, const std::vector<int>& inherited = {});
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  pid_t pid() const { return pid_; }

  // Waits for its end: its exit code, or -N where signal N killed it.
  int Wait();
  // SIGKILL, then Wait.
  int Kill();

 private:
  pid_t pid_ = -1;
};

// As Wait, for a process that became ours by PR_SET_CHILD_SUBREAPER. 127 if `pid` is no child of ours.
int WaitForExit(pid_t pid);

}  // namespace cpr::testing

#endif  // LIBCPR_TESTING_CHILD_PROCESS_H_
