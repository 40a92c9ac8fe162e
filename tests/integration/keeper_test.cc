// The keeper: gone after a release and an abort, and the way back when the main process dies too early.

#include "libcpr/preserve/keeper.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/mapping.h"
#include "libcpr/testing/child_process.h"
#include "libcpr/testing/helper.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::ChildProcess;
using ::cpr::testing::HelperCommand;
using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;

constexpr uint64_t kOldOwns = 1, kSaved = 2, kNewOwns = 3;
constexpr size_t kWordBytes = 4096;

// The ownership word in memory that several processes map.
class Word {
 public:
  Word() : fd_(::memfd_create("word", MFD_CLOEXEC)) {
    if (::ftruncate(fd_.get(), kWordBytes) == 0) Map();
  }
  explicit Word(int fd) : fd_(fd) { Map(); }
  std::atomic<uint64_t>* get() const { return reinterpret_cast<std::atomic<uint64_t>*>(mapping_.data()); }
  int fd() const { return fd_.get(); }

 private:
  void Map() {
    if (auto mapping = Mapping::Create(fd_.get(), 0, kWordBytes); mapping.ok()) mapping_ = *std::move(mapping);
  }
  UniqueFd fd_;
  Mapping mapping_;
};

std::vector<char*> Argv(std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  return argv;
}

absl::StatusOr<Keeper> StartKeeper(const Word& word, int report, int exe_fd) {
  std::vector<std::string> back = HelperCommand("KeeperBack", {std::to_string(report)});
  KeeperOptions options;
  const std::vector<char*> argv = Argv(back);
  options.argv = argv.data();
  options.envp = environ;
  options.exe_fd = exe_fd;
  options.word = word.get();
  options.expected = kSaved;
  options.desired = kOldOwns;
  options.keep_open = {report};
  return Keeper::Start(options);
}

void Report(int fd, char what) {
  if (::write(fd, &what, 1) != 1) std::abort();
}

// The old program. args: the word's fd, the fd to report on, what to do: "exec NEW" or "die".
CPR_TEST_HELPER(KeeperOld, (const std::vector<std::string>& args)) {
  const Word word(std::atoi(args[0].c_str()));
  const int report = std::atoi(args[1].c_str());
  ::fcntl(report, F_SETFD, FD_CLOEXEC);
  const UniqueFd exe(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  auto keeper = StartKeeper(word, report, exe.get());
  if (!keeper.ok()) {
    std::fprintf(stderr, "%s\n", keeper.status().ToString().c_str());
    return 1;
  }
  word.get()->store(kSaved);
  if (args[2] == "die") ::kill(::getpid(), SIGKILL);
  ::fcntl(report, F_SETFD, 0);
  std::vector<std::string> next =
      HelperCommand(args[2], {args[1], std::to_string(keeper->release_fd()), std::to_string(keeper->pid())});
  ::execv(next[0].c_str(), Argv(next).data());
  return 1;
}

// New programs. args: the fd to report on, the keeper's socket and pid.
CPR_TEST_HELPER(KeeperReleases, (const std::vector<std::string>& args)) {
  const pid_t pid = std::atoi(args[2].c_str());
  if (::kill(pid, 0) != 0) return 2;
  if (!ReleaseKeeper(std::atoi(args[1].c_str()), pid).ok()) return 3;
  return ::kill(pid, 0) != 0 ? 0 : 4;
}

CPR_TEST_HELPER(KeeperHangs, (const std::vector<std::string>& args)) {
  Report(std::atoi(args[0].c_str()), 'H');
  for (;;) ::pause();
}

// The old program, exec'd again: it must find exactly its signal mask as it was.
CPR_TEST_HELPER(KeeperBack, (const std::vector<std::string>& args)) {
  sigset_t mask;
  ::sigprocmask(SIG_SETMASK, nullptr, &mask);
  bool none_blocked = true;
  for (int signal = 1; signal < 32; ++signal) none_blocked = none_blocked && ::sigismember(&mask, signal) == 0;
  Report(std::atoi(args[0].c_str()), none_blocked ? 'B' : 'b');
  return 0;
}

class KeeperTest : public ::testing::Test {
 protected:
  KeeperTest() {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    read_.Reset(fds[0]);
    write_.Reset(fds[1]);
  }
  ~KeeperTest() override {
    while (::waitpid(-1, nullptr, 0) > 0) continue;  // the keepers that became ours
  }

  std::vector<std::string> Old(const std::string& then) {
    return HelperCommand("KeeperOld", {std::to_string(word_.fd()), std::to_string(write_.get()), then});
  }
  std::vector<int> Inherited() const { return {word_.fd(), write_.get()}; }

  // What is reported next; 0 when nobody is left who could: no main process, and no keeper.
  char NextReport() {
    write_.Reset();
    char what = 0;
    return ::read(read_.get(), &what, 1) == 1 ? what : '\0';
  }

  Word word_;
  UniqueFd read_, write_;
};

TEST_F(KeeperTest, LivesOverExecveAndGoesWhenReleased) {
  EXPECT_EQ(ChildProcess(Old("KeeperReleases"), Inherited()).Wait(), 0);
  EXPECT_EQ(NextReport(), '\0') << "a keeper outlived its release";
  EXPECT_EQ(word_.get()->load(), kSaved);
}

TEST_F(KeeperTest, TakesOverWhenTheNewProgramIsKilled) {
  ChildProcess child(Old("KeeperHangs"), Inherited());
  ASSERT_EQ(NextReport(), 'H');
  EXPECT_EQ(child.Kill(), -SIGKILL);
  EXPECT_EQ(NextReport(), 'B');
  EXPECT_EQ(word_.get()->load(), kOldOwns);
  EXPECT_EQ(NextReport(), '\0');
}

TEST_F(KeeperTest, TakesOverWhenTheOldProgramIsKilledBeforeExecve) {
  EXPECT_EQ(ChildProcess(Old("die"), Inherited()).Wait(), -SIGKILL);
  EXPECT_EQ(NextReport(), 'B');
  EXPECT_EQ(word_.get()->load(), kOldOwns);
}

TEST_F(KeeperTest, DoesNotTakeOverOnceTheNewProgramOwnsTheGuest) {
  ChildProcess child(Old("KeeperHangs"), Inherited());
  ASSERT_EQ(NextReport(), 'H');
  word_.get()->store(kNewOwns);
  EXPECT_EQ(child.Kill(), -SIGKILL);
  EXPECT_EQ(NextReport(), '\0');
  EXPECT_EQ(word_.get()->load(), kNewOwns);
}

TEST_F(KeeperTest, IsGoneAfterAbort) {
  const UniqueFd exe(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  CPR_ASSERT_OK_AND_ASSIGN(Keeper keeper, StartKeeper(word_, write_.get(), exe.get()));
  const pid_t pid = keeper.pid();
  EXPECT_EQ(::kill(pid, 0), 0);
  EXPECT_THAT(keeper.Abort(), IsOk());
  EXPECT_NE(::kill(pid, 0), 0);
  EXPECT_THAT(keeper.Abort(), IsOk()) << "twice is harmless";
}

TEST_F(KeeperTest, AKeeperThatWasKilledIsNoticed) {
  const UniqueFd exe(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  CPR_ASSERT_OK_AND_ASSIGN(Keeper keeper, StartKeeper(word_, write_.get(), exe.get()));
  ASSERT_EQ(::kill(keeper.pid(), SIGKILL), 0);
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(keeper.pid()), &info, WEXITED | WNOWAIT), 0);
  EXPECT_THAT(keeper.Abort(), StatusIs(absl::StatusCode::kFailedPrecondition, _));
}

TEST_F(KeeperTest, DoesNotHoldWhatItMustClose) {
  const UniqueFd exe(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  std::vector<std::string> command = {"x"};
  const std::vector<char*> argv = Argv(command);
  KeeperOptions options;
  options.argv = argv.data();
  options.exe_fd = exe.get();
  options.word = word_.get();
  options.close_in_keeper = {write_.get()};
  CPR_ASSERT_OK_AND_ASSIGN(Keeper keeper, Keeper::Start(options));
  EXPECT_EQ(NextReport(), '\0') << "the keeper holds the pipe";
  EXPECT_THAT(keeper.Abort(), IsOk());
}

TEST_F(KeeperTest, BadOptionsAreRefused) {
  EXPECT_THAT(Keeper::Start(KeeperOptions()), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

}  // namespace
}  // namespace cpr
