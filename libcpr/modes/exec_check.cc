#include "libcpr/modes/exec_check.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/modes/exec.h"
#include "libcpr/modes/exec_environment.h"
#include "libcpr/modes/own_sections.h"

namespace cpr {
namespace {

// The descriptor that the question comes by; only the child has it, without CLOEXEC.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command, int question_fd) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // dup2 onto itself clears CLOEXEC in the child.
  posix_spawn_file_actions_adddup2(&actions, question_fd, question_fd);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  const ExecStrings argv(command);
  const ExecStrings environment(ExecEnvironment({absl::StrCat(kExecCheckVariable, "=", question_fd)}));
  pid_t pid = -1;
  const int err = ::posix_spawnp(&pid, command[0].c_str(), &actions, nullptr, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  if (err != 0) return ErrnoStatus(err, absl::StrCat("execvp ", command[0], " failed"));
  return pid;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ExecCheck>> ExecCheck::Start(const std::vector<std::string>& command,
                                                            const std::vector<SectionInfo>& sections) {
  CPR_ASSIGN_OR_RETURN(auto pair, PacketSocket::CreatePair());
  // The question lies in the socket before the program starts: one that ends at once is then told from one that is
  // deaf.
  HandoverChannel channel(std::move(pair.first));
  CPR_RETURN_IF_ERROR(channel.Send(HelloMessage(v1::HANDOVER_MODE_EXEC, sections, /*check_only=*/true)));
  CPR_ASSIGN_OR_RETURN(const pid_t pid, Spawn(command, pair.second.fd()));
  return std::unique_ptr<ExecCheck>(new ExecCheck(std::move(channel), pid, command[0]));
}

ExecCheck::~ExecCheck() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

absl::Status ExecCheck::Answer() {
  absl::StatusOr<Received> received = channel_.Receive();
  if (received.ok()) return Annotate(ReadHelloReply(received->message), program_);
  if (absl::IsAborted(received.status())) return DescribeEnd();
  return received.status();
}

absl::Status ExecCheck::DescribeEnd() {
  // It has hung up: it has ended (its descriptors are closed a moment before it can be waited for), or it is a program
  // that closes what it does not know.
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (process.ok()) WaitReadable(process.get(), absl::Now() + absl::Seconds(1)).IgnoreError();
  int status = 0;
  const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
  const std::string asked = absl::StrCat(program_, ": asked whether it can take the guest over, it ");
  if (ended != pid_) return absl::FailedPreconditionError(absl::StrCat(asked, "hung up without an answer"));
  pid_ = -1;
  if (WIFSIGNALED(status))
    return absl::FailedPreconditionError(absl::StrCat(asked, "was killed by signal ", WTERMSIG(status)));
  return absl::FailedPreconditionError(
      absl::StrCat(asked, "ended without an answer, exit status ", WEXITSTATUS(status)));
}

bool AnswerExecCheckIfAsked(absl::Span<const SectionSupport> supported) {
  const char* variable = std::getenv(kExecCheckVariable);
  if (variable == nullptr) return false;
  int number = -1;
  if (!absl::SimpleAtoi(variable, &number)) return true;
  absl::StatusOr<PacketSocket> socket = PacketSocket::Adopt(UniqueFd(number));
  if (!socket.ok()) return true;
  HandoverChannel channel(*std::move(socket));
  if (!WaitReadable(channel.fd(), absl::Now() + absl::Seconds(10)).ok()) return true;
  const absl::StatusOr<Received> received = channel.Receive();
  if (!received.ok() || !received->message.has_hello()) return true;
  const v1::Hello& hello = received->message.hello();
  absl::Status answer = CheckProtocolVersion(hello.protocol_version(), "the old side");
  std::vector<SectionSupport> all(supported.begin(), supported.end());
  for (SectionSupport& own : OwnSupport()) all.push_back(std::move(own));
  if (answer.ok()) answer = CheckReadable(SectionsOfHello(hello), all);
  channel.Send(HelloReplyMessage(answer)).IgnoreError();
  return true;
}

}  // namespace cpr
