#ifndef LIBCPR_MODES_EXEC_ENVIRONMENT_H_
#define LIBCPR_MODES_EXEC_ENVIRONMENT_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace cpr {

// How one program of a cpr-exec speaks to the next: environment variables, since they pass through any prefix command.
inline constexpr char kExecCheckVariable[] = "CPR_EXEC_CHECK";    // "FD": answer the Hello on it, then exit
inline constexpr char kExecStateVariable[] = "CPR_EXEC_STATE";    // "STATE_FD:KEEPER_FD:KEEPER_PID", -1 for none
inline constexpr char kExecReturnVariable[] = "CPR_EXEC_RETURN";  // why the old program is started again
inline constexpr char kExecKeeperVariable[] = "CPR_EXEC_KEEPER";  // set if it was the keeper that started it

// argv or an environment in the form that execve wants. Thread-compatible; the pointers live as long as the object.
class ExecStrings {
 public:
  explicit ExecStrings(std::vector<std::string> strings);
  ExecStrings(const ExecStrings&) = delete;
  ExecStrings& operator=(const ExecStrings&) = delete;
  char* const* data() const { return pointers_.data(); }

 private:
  std::vector<std::string> strings_;
  std::vector<char*> pointers_;
};

// This process's environment without the variables above, and with `also` ("NAME=value").
std::vector<std::string> ExecEnvironment(std::vector<std::string> also);

std::string ExecStateEntry(int state_fd, int keeper_fd, pid_t keeper_pid);

}  // namespace cpr

#endif  // LIBCPR_MODES_EXEC_ENVIRONMENT_H_
