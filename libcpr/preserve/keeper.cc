#include "libcpr/preserve/keeper.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>
#include <string>
#include <utility>

#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/raw_syscall.h"

namespace cpr {

// Everything the child reads. It lies in memory that the child shares, and nobody changes it while the child lives:
// the main process either owns it by its Keeper or has left this memory by execve.
struct Keeper::Plan {
  UniqueFd socket;  // the child's end
  int release_fd = -1;
  int exe_fd = -1;
  uint64_t* word = nullptr;
  uint64_t expected = 0;
  uint64_t desired = 0;
  uint64_t signal_mask = 0;  // of the main process, for the program that is exec'd again
  std::vector<int> close, keep;
  const int* close_begin = nullptr;
  const int* close_end = nullptr;
  const int* keep_begin = nullptr;
  const int* keep_end = nullptr;
  std::vector<std::string> strings;
  std::vector<char*> argv, envp;
  char* const* raw_argv = nullptr;
  char* const* raw_envp = nullptr;
};

namespace {

using internal::RawSyscall;

constexpr size_t kStackBytes = 64 << 10;
constexpr char kReady = 'K', kRelease = 'R', kAbort = 'A';
constexpr uint64_t kAllSignals = ~uint64_t{0};
constexpr size_t kKernelMaskBytes = 8;
constexpr int kLastSignal = 64;
constexpr int kExecFailed = 127;

// The child. No libc, no errno, no allocation: its thread-local storage is that of a thread of the main process.

[[noreturn]] CPR_RAW void RawExit(int code) {
  for (;;) RawSyscall(SYS_exit_group, code);
}

// Signals handled by the old program are set to their default first: its handlers must not run here.
CPR_RAW void RestoreSignals(const Keeper::Plan& plan) {
  struct {
    void* handler;
    unsigned long flags;  // NOLINT: the kernel's struct
    void* restorer;
    uint64_t mask;
  } action;
  for (int signal = 1; signal <= kLastSignal; ++signal) {
    if (RawSyscall(SYS_rt_sigaction, signal, 0, reinterpret_cast<long>(&action), kKernelMaskBytes) != 0) continue;
    // NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): the kernel filled it
    if (action.handler == reinterpret_cast<void*>(SIG_IGN)) continue;
    action.handler = nullptr;  // SIG_DFL
    action.flags = 0;
    RawSyscall(SYS_rt_sigaction, signal, reinterpret_cast<long>(&action), 0, kKernelMaskBytes);
  }
  RawSyscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<long>(&plan.signal_mask), 0, kKernelMaskBytes);
}

// The main process is dead. If the guest did not run in the new program yet, it lives on in the old one.
[[noreturn]] CPR_RAW void TakeOver(const Keeper::Plan& plan) {
  uint64_t expected = plan.expected;
  if (!__atomic_compare_exchange_n(plan.word, &expected, plan.desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    RawExit(0);
  }
  for (const int* fd = plan.keep_begin; fd != plan.keep_end; ++fd) RawSyscall(SYS_fcntl, *fd, F_SETFD, 0);
  RestoreSignals(plan);
  RawSyscall(SYS_execveat, plan.exe_fd, reinterpret_cast<long>(""), reinterpret_cast<long>(plan.raw_argv),
             reinterpret_cast<long>(plan.raw_envp), AT_EMPTY_PATH);
  RawExit(kExecFailed);
}

CPR_RAW void KeeperMain(void* argument) {
  const Keeper::Plan& plan = *static_cast<const Keeper::Plan*>(argument);
  const int socket = plan.close_begin[0];  // see PreparePlan
  RawSyscall(SYS_prctl, PR_SET_NAME, reinterpret_cast<long>("cpr-keeper"));
  for (const int* fd = plan.close_begin + 1; fd != plan.close_end; ++fd) RawSyscall(SYS_close, *fd);
  char byte = kReady;
  RawSyscall(SYS_write, socket, reinterpret_cast<long>(&byte), 1);
  for (;;) {
    const long n = RawSyscall(SYS_read, socket, reinterpret_cast<long>(&byte), 1);  // NOLINT
    if (n == 1) RawExit(0);                                                         // released or aborted
    if (n != -EINTR) TakeOver(plan);
  }
}

// From here on: the main process.

void CopyStrings(char* const* from, std::vector<std::string>& strings) {
  for (; from != nullptr && *from != nullptr; ++from) strings.emplace_back(*from);
}

std::vector<char*> Pointers(std::vector<std::string>& strings, size_t begin, size_t end) {
  std::vector<char*> pointers;
  for (size_t i = begin; i < end; ++i) pointers.push_back(strings[i].data());
  pointers.push_back(nullptr);
  return pointers;
}

void PrepareProgram(const KeeperOptions& options, Keeper::Plan& plan) {
  CopyStrings(options.argv, plan.strings);
  const size_t argc = plan.strings.size();
  CopyStrings(options.envp, plan.strings);
  plan.argv = Pointers(plan.strings, 0, argc);
  plan.envp = Pointers(plan.strings, argc, plan.strings.size());
  plan.raw_argv = plan.argv.data();
  plan.raw_envp = plan.envp.data();
}

std::unique_ptr<Keeper::Plan> PreparePlan(const KeeperOptions& options, UniqueFd socket, int release_fd) {
  auto plan = std::make_unique<Keeper::Plan>();
  plan->release_fd = release_fd;
  plan->exe_fd = options.exe_fd;
  plan->word = reinterpret_cast<uint64_t*>(options.word);
  plan->expected = options.expected;
  plan->desired = options.desired;
  plan->keep = options.keep_open;
  plan->close = {socket.get(), release_fd};  // the first stays open: it is what the child waits on
  plan->close.insert(plan->close.end(), options.close_in_keeper.begin(), options.close_in_keeper.end());
  plan->close_begin = plan->close.data();
  plan->close_end = plan->close_begin + plan->close.size();
  plan->keep_begin = plan->keep.data();
  plan->keep_end = plan->keep_begin + plan->keep.size();
  plan->socket = std::move(socket);
  PrepareProgram(options, *plan);
  return plan;
}

// The child is born with every signal blocked, so that no handler ever runs in it.
pid_t CloneKeeper(Keeper::Plan& plan, const Mapping& stack) {
  RawSyscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<long>(&kAllSignals),
             reinterpret_cast<long>(&plan.signal_mask), kKernelMaskBytes);
  const long pid =
      internal::RawClone(CLONE_VM | SIGCHLD, stack.data() + stack.size_bytes(), &KeeperMain, &plan);  // NOLINT
  RawSyscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<long>(&plan.signal_mask), 0, kKernelMaskBytes);
  return static_cast<pid_t>(pid);
}

absl::Status AwaitReady(int fd) {
  char byte = 0;
  ssize_t n;
  do {
    n = ::read(fd, &byte, 1);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return ErrnoStatus(errno, "read from the keeper");
  if (n == 0 || byte != kReady) return absl::InternalError("the keeper ended before it was ready");
  return absl::OkStatus();
}

absl::Status Tell(int fd, char byte) {
  if (::send(fd, &byte, 1, MSG_NOSIGNAL) == 1) return absl::OkStatus();
  if (errno == EPIPE || errno == ECONNRESET) return absl::FailedPreconditionError("the keeper was gone already");
  return ErrnoStatus(errno, "telling the keeper");
}

absl::StatusOr<bool> Reap(pid_t pid, int flags) {
  for (;;) {
    const pid_t reaped = ::waitpid(pid, nullptr, flags);
    if (reaped == pid || (reaped < 0 && errno == ECHILD)) return true;
    if (reaped == 0) return false;
    if (errno != EINTR) return ErrnoStatus(errno, "waitpid of the keeper");
  }
}

}  // namespace

Keeper::Keeper(std::unique_ptr<Plan> plan, Mapping stack) : plan_(std::move(plan)), stack_(std::move(stack)) {}

Keeper::Keeper(Keeper&& other) noexcept
    : plan_(std::move(other.plan_)),
      stack_(std::move(other.stack_)),
      release_fd_(std::move(other.release_fd_)),
      pid_(std::exchange(other.pid_, -1)) {}

Keeper& Keeper::operator=(Keeper&& other) noexcept {
  if (this == &other) return *this;
  (void)Abort();
  plan_ = std::move(other.plan_);
  stack_ = std::move(other.stack_);
  release_fd_ = std::move(other.release_fd_);
  pid_ = std::exchange(other.pid_, -1);
  return *this;
}

Keeper::~Keeper() { (void)Abort(); }

absl::StatusOr<Keeper> Keeper::Start(const KeeperOptions& options) {
  if (options.argv == nullptr || options.argv[0] == nullptr || options.word == nullptr || options.exe_fd < 0) {
    return absl::InvalidArgumentError("a keeper needs argv, the ownership word and the program to go back to");
  }
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return ErrnoStatus(errno, "socketpair");
  UniqueFd release_fd(fds[0]);
  UniqueFd child_fd(fds[1]);
  CPR_ASSIGN_OR_RETURN(Mapping stack, Mapping::CreateAnonymous(kStackBytes));
  Keeper keeper(PreparePlan(options, std::move(child_fd), release_fd.get()), std::move(stack));
  const pid_t pid = CloneKeeper(*keeper.plan_, keeper.stack_);
  if (pid < 0) return ErrnoStatus(-pid, "clone of the keeper");
  keeper.pid_ = pid;
  keeper.release_fd_ = std::move(release_fd);
  keeper.plan_->socket.Reset();  // ours: the child has its own, and its death must be seen
  CPR_RETURN_IF_ERROR(AwaitReady(keeper.release_fd()));
  CPR_RETURN_IF_ERROR(SetCloexec(keeper.release_fd(), false));
  return keeper;
}

absl::Status Keeper::Abort() {
  if (pid_ < 0) return absl::OkStatus();
  const absl::Status told = Tell(release_fd_.get(), kAbort);
  if (!told.ok()) ::kill(pid_, SIGKILL);  // never by closing its socket: that would make it take over
  const absl::StatusOr<bool> reaped = Reap(std::exchange(pid_, -1), 0);
  release_fd_.Reset();
  if (!told.ok()) return told;
  return reaped.status();
}

absl::Status TellKeeper(UniqueFd release_fd) { return Tell(release_fd.get(), kRelease); }

absl::StatusOr<bool> ReapKeeper(pid_t pid) { return Reap(pid, WNOHANG); }

absl::Status ReleaseKeeper(int release_fd, pid_t pid) {
  const absl::Status told = TellKeeper(UniqueFd(release_fd));
  const absl::StatusOr<bool> reaped = Reap(pid, 0);  // no signal on error: the pid may be somebody else's by now
  return told.ok() ? reaped.status() : told;
}

}  // namespace cpr
