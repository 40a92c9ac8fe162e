#include "libcpr/modes/command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/exec_environment.h"

namespace cpr {
namespace {

// The last words are the ones that say why.
constexpr off_t kMaxWordsBytes = 1024;
// A pipe as large as an unprivileged user may have: fewer turns for each MiB.
constexpr int kPipeBytes = 1 << 20;

struct Pipe {
  UniqueFd read, write;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe2");
  Pipe pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
  ::fcntl(pipe.write.get(), F_SETPIPE_SZ, kPipeBytes);  // it works with less
  return pipe;
}

// stdio and nothing else: neither our descriptors nor those that we were started with.
void PrepareFds(posix_spawn_file_actions_t* actions, Command::Direction direction, int pipe_fd, int words_fd) {
  const bool takes = direction == Command::Direction::kTakes;
  posix_spawn_file_actions_adddup2(actions, pipe_fd, takes ? STDIN_FILENO : STDOUT_FILENO);
  posix_spawn_file_actions_addopen(actions, takes ? STDOUT_FILENO : STDIN_FILENO, "/dev/null",
                                   takes ? O_WRONLY : O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(actions, words_fd, STDERR_FILENO);
  posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1);
}

void PrepareSignals(posix_spawnattr_t* attributes) {
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(attributes, &all);
  posix_spawnattr_setsigmask(attributes, &none);
  posix_spawnattr_setpgroup(attributes, 0);
  posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
}

absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& argv, Command::Direction direction, int pipe_fd,
                            int words_fd) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  PrepareFds(&actions, direction, pipe_fd, words_fd);
  PrepareSignals(&attributes);
  const ExecStrings words(argv);
  const ExecStrings environment(ExecEnvironment({}));
  pid_t pid = -1;
  const int err = ::posix_spawnp(&pid, argv[0].c_str(), &actions, &attributes, words.data(), environment.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (err != 0) return ErrnoStatus(err, absl::StrCat("execvp ", argv[0], " failed"));
  return pid;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Command>> Command::Start(const std::vector<std::string>& argv, Direction direction) {
  if (argv.empty()) return absl::InvalidArgumentError("a command without words");
  CPR_ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  const bool takes = direction == Direction::kTakes;
  UniqueFd& ours = takes ? pipe.write : pipe.read;
  // Numbers above those of stdio, which the child arranges anew.
  CPR_ASSIGN_OR_RETURN(UniqueFd its, DupFd(takes ? pipe.read.get() : pipe.write.get()));
  (takes ? pipe.read : pipe.write).Reset();
  CPR_RETURN_IF_ERROR(SetNonblocking(ours.get(), true));
  // A file, not a pipe: it needs no reader while the command runs.
  const UniqueFd file(::memfd_create("cpr-command-stderr", MFD_CLOEXEC));
  if (!file.ok()) return ErrnoStatus(errno, "memfd_create for a command's stderr");
  CPR_ASSIGN_OR_RETURN(UniqueFd words, DupFd(file.get()));
  CPR_ASSIGN_OR_RETURN(const pid_t pid, Spawn(argv, direction, its.get(), words.get()));
  if (!takes) its.Reset();  // the command's death must be the end of what it gives
  auto command = std::unique_ptr<Command>(new Command(pid, std::move(ours), std::move(its), std::move(words)));
  command->process_.Reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!command->process_.ok()) return ErrnoStatus(errno, "pidfd_open of a command");
  return command;
}

uint64_t Command::unread_bytes() const {
  int bytes = 0;
  return its_end_.ok() && ::ioctl(its_end_.get(), FIONREAD, &bytes) == 0 ? static_cast<uint64_t>(bytes) : 0;
}

Command::~Command() {
  if (pid_ < 0) return;
  ::kill(-pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

absl::Status Command::Result() {
  if (pid_ < 0) return result_;
  int status = 0;
  const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
  if (ended == 0 || (ended < 0 && errno == EINTR)) return absl::UnavailableError("the command still runs");
  if (ended < 0) return ErrnoStatus(errno, "waitpid of a command");
  pid_ = -1;
  result_ = Describe(status);
  return result_;
}

absl::Status Command::Describe(int wait_status) const {
  if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) return absl::OkStatus();
  const std::string words = Words();
  return absl::AbortedError(absl::StrCat(
      WIFSIGNALED(wait_status) ? absl::StrCat("the command was killed by signal ", WTERMSIG(wait_status))
                               : absl::StrCat("the command ended with exit status ", WEXITSTATUS(wait_status)),
      words.empty() ? "" : ": ", words));
}

std::string Command::Words() const {
  struct stat info;
  if (::fstat(words_.get(), &info) != 0) return "";
  std::string text(static_cast<size_t>(std::min(info.st_size, kMaxWordsBytes)), '\0');
  const uint64_t from = static_cast<uint64_t>(info.st_size) - text.size();
  if (!PreadAll(words_.get(), text.data(), text.size(), from).ok()) return "";
  // One line of ASCII: it travels in an error, as JSON.
  for (char& c : text) {
    if (c != '\n' && !absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  absl::StripAsciiWhitespace(&text);
  return absl::StrReplaceAll(text, {{"\n", "; "}});
}

}  // namespace cpr
