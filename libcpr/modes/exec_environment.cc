#include "libcpr/modes/exec_environment.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace cpr {

ExecStrings::ExecStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (std::string& string : strings_) pointers_.push_back(string.data());
  pointers_.push_back(nullptr);
}

std::vector<std::string> ExecEnvironment(std::vector<std::string> also) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool ours = false;
    for (const char* name : {kExecCheckVariable, kExecStateVariable, kExecReturnVariable, kExecKeeperVariable}) {
      ours |= absl::StartsWith(*entry, absl::StrCat(name, "="));
    }
    if (!ours) environment.emplace_back(*entry);
  }
  for (std::string& entry : also) environment.push_back(std::move(entry));
  return environment;
}

std::string ExecStateEntry(int state_fd, int keeper_fd, pid_t keeper_pid) {
  return absl::StrCat(kExecStateVariable, "=", state_fd, ":", keeper_fd, ":", keeper_pid);
}

}  // namespace cpr
