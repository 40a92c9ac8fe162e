// -sandbox on, in child processes of its own: there is no way back out of it.

#include "vmm/sandbox/sandbox.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/helper.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/subprocess.h"

namespace cpr {
namespace {

using ::cpr::testing::HelperCommand;
using ::cpr::testing::RunSubprocess;

// What the helpers say when something is not as it should be; exit code 1 then.
#define CPR_REQUIRE(condition)                                                      \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "line %d: %s, errno %d\n", __LINE__, #condition, errno); \
      std::_Exit(1);                                                                \
    }                                                                               \
  } while (0)

std::string StatusLine(const std::string& task, const std::string& name) {
  std::ifstream file(absl::StrCat("/proc/self/task/", task, "/status"));
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, name)) return line.substr(line.find('\t') + 1);
  }
  return "";
}

long Filters() { return std::atol(StatusLine(absl::StrCat(::gettid()), "Seccomp_filters:").c_str()); }  // NOLINT

// `call` is refused with `err`.
template <typename Result>
bool Refused(Result result, int err) {
  return result == -1 && errno == err;
}

// Argument: "deny" for spawn=deny.
CPR_TEST_HELPER(Calls, (const std::vector<std::string>& args)) {
  const bool spawn = args.empty();
  std::atomic<pid_t> other = 0;
  std::atomic<bool> go = false;
  std::thread thread([&] {
    other = ::gettid();
    while (!go) std::this_thread::yield();
    CPR_REQUIRE(Refused(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr), EPERM));
  });
  while (other == 0) std::this_thread::yield();
  CPR_REQUIRE(EnterSandbox({.on = true, .spawn = spawn}).ok());
  // Every thread of before, and those that come.
  for (const std::string& task : {absl::StrCat(::gettid()), absl::StrCat(other.load())}) {
    CPR_REQUIRE(StatusLine(task, "Seccomp:") == "2");
    CPR_REQUIRE(StatusLine(task, "NoNewPrivs:") == "1");
  }
  go = true;
  thread.join();
  std::thread([] { CPR_REQUIRE(Refused(::unshare(CLONE_NEWNS), EPERM)); }).join();

  CPR_REQUIRE(Refused(::mount("none", "/proc", "tmpfs", 0, nullptr), EPERM));
  CPR_REQUIRE(Refused(::syscall(SYS_bpf, 0, nullptr, 0), EPERM));
  CPR_REQUIRE(Refused(::syscall(SYS_keyctl, 0, 0, 0), EPERM));
  CPR_REQUIRE(Refused(::syscall(SYS_process_vm_readv, ::getpid(), nullptr, 0, nullptr, 0, 0), EPERM));
  CPR_REQUIRE(Refused(::syscall(SYS_init_module, nullptr, 0, ""), EPERM));
  CPR_REQUIRE(Refused(::syscall(SYS_kexec_load, 0, 0, nullptr, 0), EPERM));
  CPR_REQUIRE(Refused(::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, 0), EPERM));
  CPR_REQUIRE(Refused(::setuid(0), EPERM));
  CPR_REQUIRE(Refused(::ioctl(0, TIOCSTI, "x"), EPERM));
  CPR_REQUIRE(Refused(::socket(AF_PACKET, SOCK_RAW, 0), ENOSYS));
  // On no list at all.
  CPR_REQUIRE(Refused(::syscall(SYS_clone3, nullptr, 0), ENOSYS));
  CPR_REQUIRE(Refused(::syscall(SYS_lookup_dcookie, 0, nullptr, 0), ENOSYS));

  rlimit limit;
  CPR_REQUIRE(::prlimit(0, RLIMIT_NOFILE, nullptr, &limit) == 0);
  CPR_REQUIRE(Refused(::prlimit(::getppid(), RLIMIT_NOFILE, nullptr, &limit), EPERM));
  const pid_t child = ::fork();
  CPR_REQUIRE(spawn ? child >= 0 : Refused(child, EPERM));
  if (child == 0) ::_exit(7);
  int status = 0;
  if (child > 0) CPR_REQUIRE(::waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
  return 0;
}

// Execs itself argument times, under the sandbox at each.
CPR_TEST_HELPER(Again, (const std::vector<std::string>& args)) {
  CPR_REQUIRE(EnterSandbox({.on = true}).ok());
  static long once = Filters();  // NOLINT
  const int left = std::atoi(args[0].c_str());
  if (left == 0) {
    std::printf("filters %ld\n", once);
    return 0;
  }
  std::vector<std::string> words = HelperCommand("Again", {absl::StrCat(left - 1)});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  return 1;
}

// Runs a command as exec: does.
CPR_TEST_HELPER(Commands, (const std::vector<std::string>&)) {
  CPR_REQUIRE(EnterSandbox({.on = true}).ok());
  return std::system(
             "set -e; d=$(mktemp -d); echo text | gzip -c > $d/f; gzip -dc < $d/f; cp $d/f $d/g; ls -l $d > /dev/null; "
             "rm -r $d") == 0
             ? 0
             : 1;
}

TEST(SandboxTest, ForbiddenCallsAreRefusedInEveryThread) {
  CPR_ASSERT_OK_AND_ASSIGN(const auto result, RunSubprocess(HelperCommand("Calls")));
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST(SandboxTest, SpawnCanBeDenied) {
  CPR_ASSERT_OK_AND_ASSIGN(const auto result, RunSubprocess(HelperCommand("Calls", {"deny"})));
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST(SandboxTest, FiltersDoNotPileUpOverExecve) {
  CPR_ASSERT_OK_AND_ASSIGN(const auto result, RunSubprocess(HelperCommand("Again", {"5"})));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  CPR_ASSERT_OK_AND_ASSIGN(const auto first, RunSubprocess(HelperCommand("Again", {"0"})));
  EXPECT_EQ(result.output, first.output);
}

TEST(SandboxTest, CommandsRunInIt) {
  CPR_ASSERT_OK_AND_ASSIGN(const auto result, RunSubprocess(HelperCommand("Commands")));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(result.output, "text\n");
}

}  // namespace
}  // namespace cpr
