#include "libcpr/testing/child_process.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace cpr::testing {

ChildProcess::ChildProcess(std::vector<std::string> command, const std::vector<int>& inherited) {
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  for (const int fd : inherited) ::posix_spawn_file_actions_adddup2(&actions, fd, fd);  // clears CLOEXEC there
  if (::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) != 0) pid_ = -1;
  ::posix_spawn_file_actions_destroy(&actions);
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) Kill();
}

int ChildProcess::Wait() { return WaitForExit(std::exchange(pid_, -1)); }

int ChildProcess::Kill() {
  if (pid_ > 0) ::kill(pid_, SIGKILL);
  return Wait();
}

int WaitForExit(pid_t pid) {
  int status = 0;
  pid_t reaped;
  do {
    reaped = pid > 0 ? ::waitpid(pid, &status, 0) : -1;
  } while (reaped < 0 && pid > 0 && errno == EINTR);
  if (reaped < 0) return 127;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace cpr::testing
