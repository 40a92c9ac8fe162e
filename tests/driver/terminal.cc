#include "tests/driver/terminal.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/socket.h"

namespace cpr {
namespace {

constexpr absl::string_view kPrompt = "(cpr-vmm) ";

// The child's stdin, stdout and stderr.
struct Stdio {
  int in, out, err;
};

absl::StatusOr<VmmProcess> Spawn(const std::vector<std::string>& command, const Stdio& stdio) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, stdio.in, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, stdio.out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, stdio.err, STDERR_FILENO);
  pid_t pid = -1;
  const int err = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (err != 0) return ErrnoStatus(err, absl::StrCat("start of ", command[0]));
  return VmmProcess::Adopt(pid);
}

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakePipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe2");
  return std::make_pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

}  // namespace

absl::StatusOr<Terminal> Terminal::StartOnPipes(const std::vector<std::string>& command, const std::string& log_path) {
  CPR_ASSIGN_OR_RETURN(auto in, MakePipe());
  CPR_ASSIGN_OR_RETURN(auto out, MakePipe());
  CPR_ASSIGN_OR_RETURN(const UniqueFd log, OpenFile(log_path, O_WRONLY | O_CREAT | O_APPEND));
  CPR_ASSIGN_OR_RETURN(VmmProcess process, Spawn(command, {in.first.get(), out.second.get(), log.get()}));
  return Terminal(std::move(process), std::move(in.second), std::move(out.first));
}

absl::StatusOr<Terminal> Terminal::StartOnPty(const std::vector<std::string>& command) {
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master.ok() || ::grantpt(master.get()) != 0 || ::unlockpt(master.get()) != 0) {
    return ErrnoStatus(errno, "posix_openpt");
  }
  char name[64];
  if (const int err = ::ptsname_r(master.get(), name, sizeof(name)); err != 0) return ErrnoStatus(err, "ptsname_r");
  CPR_ASSIGN_OR_RETURN(const UniqueFd slave, OpenFile(name, O_RDWR | O_NOCTTY));
  CPR_ASSIGN_OR_RETURN(VmmProcess process, Spawn(command, {slave.get(), slave.get(), slave.get()}));
  CPR_ASSIGN_OR_RETURN(UniqueFd in, DupFd(master.get()));
  return Terminal(std::move(process), std::move(in), std::move(master));
}

absl::StatusOr<std::string> Terminal::ReadToPrompt(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    if (const size_t end = read_.find(std::string(kPrompt)); end != std::string::npos) {
      std::string text = read_.substr(0, end);
      read_.erase(0, end + kPrompt.size());
      return text;
    }
    const absl::Status ready = WaitReadable(out_.get(), deadline);
    if (!ready.ok()) return Annotate(ready, absl::StrCat("no prompt after '", read_, "'"));
    char bytes[4096];
    const ssize_t n = ::read(out_.get(), bytes, sizeof(bytes));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return absl::UnavailableError(read_);  // a terminal whose other end is gone says EIO
    read_.append(bytes, static_cast<size_t>(n));
  }
}

absl::Status Terminal::Type(absl::string_view line) { return WriteAll(in_.get(), absl::StrCat(line, "\n")); }

absl::StatusOr<std::string> Terminal::Ask(absl::string_view line) {
  CPR_RETURN_IF_ERROR(Type(line));
  return ReadToPrompt();
}

absl::Status Terminal::AskUntil(absl::string_view line, absl::string_view answer, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  std::string last;
  while (absl::Now() < deadline) {
    CPR_ASSIGN_OR_RETURN(last, Ask(line));
    if (last == answer) return absl::OkStatus();
  }
  return absl::DeadlineExceededError(absl::StrCat("'", line, "' is answered by '", last, "', not by '", answer, "'"));
}

}  // namespace cpr
