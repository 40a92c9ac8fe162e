// cpr-exec without a hypervisor: this test program is the old program, the new one, and the bad ones.

#include "libcpr/modes/exec.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/preserve/keeper.h"
#include "libcpr/testing/fd_leak_guard.h"
#include "libcpr/testing/helper.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/subprocess.h"
#include "libcpr/testing/toy_vm.h"

namespace cpr {
namespace {

using ::cpr::testing::HelperCommand;
using ::cpr::testing::IsOk;
using ::cpr::testing::RunSubprocess;
using ::cpr::testing::SubprocessResult;
using ::cpr::testing::ToyVm;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

int Say(absl::string_view text, int exit_code) {
  std::printf("pid %d: %s\n", ::getpid(), std::string(text).c_str());
  std::fflush(stdout);
  return exit_code;
}

// The guest as it should be, wherever it runs.
bool Intact(const ToyVm& vm) {
  return vm.running && vm.value == 42 && vm.config == "exec" && vm.RamIntact() && vm.extra.ok();
}

absl::Status ExecInto(ToyVm& vm, std::vector<std::string> command, std::vector<std::string> own_argv) {
  ExecOutgoingOptions options;
  options.command = std::move(command);
  options.own_argv = std::move(own_argv);
  options.check_timeout = absl::Seconds(5);
  auto outgoing = CreateExecOutgoing(std::move(options), &vm);
  if (!outgoing.ok()) return outgoing.status();
  return (*outgoing)->Run();
}

// A program with a guest: args are how often to exec itself, then the words of a last program to try.
CPR_TEST_HELPER(Guest, (const std::vector<std::string>& args)) {
  ToyVm vm;
  if (AnswerExecCheckIfAsked(vm.Supported())) return 0;
  auto handoff = ExecHandoff::FromEnvironment();
  if (!handoff.ok()) return Say(handoff.status().ToString(), 10);
  if (*handoff == nullptr) {
    if (!vm.Start("exec", 42).ok()) return Say("start", 11);
  } else {
    const auto why = (*handoff)->returned_because();
    auto incoming = CreateExecIncoming(*std::move(handoff), {}, &vm);
    if (!incoming.ok()) return Say(incoming.status().ToString(), 12);
    if (const absl::Status status = (*incoming)->Run(); !status.ok()) return Say(status.ToString(), 13);
    const pid_t keeper = (*incoming)->keeper_pid();
    for (bool gone = keeper < 0; !gone;) gone = ReapKeeper(keeper).value_or(true);
    if (!Intact(vm)) return Say("the guest is not what it was", 14);
    if (why.has_value()) return Say(absl::StrCat("back in the old program: ", *why), 0);
  }
  int left = 0;
  if (!absl::SimpleAtoi(args[0], &left)) return Say("usage", 15);
  std::vector<std::string> rest(args.begin() + 1, args.end());
  if (left == 0 && rest.empty()) return Say(absl::StrCat("arrived, fds ", cpr::testing::OpenFds().size()), 0);
  std::vector<std::string> command = rest;
  if (left > 0) {
    rest.insert(rest.begin(), absl::StrCat(left - 1));
    command = HelperCommand("Guest", rest);
  }
  std::vector<std::string> own_argv = HelperCommand("Guest", args);
  const absl::Status status = ExecInto(vm, command, own_argv);
  if (!Intact(vm)) return Say(absl::StrCat("guest lost: ", status.ToString()), 16);
  return Say(absl::StrCat("still here: ", status.message()), 0);
}

// A program with a guest that is killed when its handover enters a phase: args[0] is its number. The way back leads to
// Guest.
CPR_TEST_HELPER(DyingGuest, (const std::vector<std::string>& args)) {
  ToyVm vm;
  if (!vm.Start("exec", 42).ok()) return Say("start", 30);
  ExecOutgoingOptions options;
  options.command = HelperCommand("Guest", {"0"});
  options.own_argv = options.command;
  options.observer = [&args](Phase phase) {
    if (absl::StrCat(static_cast<int>(phase)) == args[0]) ::raise(SIGKILL);
  };
  auto outgoing = CreateExecOutgoing(std::move(options), &vm);
  if (!outgoing.ok()) return Say("no outgoing", 31);
  return Say((*outgoing)->Run().ToString(), 32);
}

// A program that says it can take over, and then fails at the call that args[0] names, or dies there.
CPR_TEST_HELPER(BadGuest, (const std::vector<std::string>& args)) {
  ToyVm vm;
  if (AnswerExecCheckIfAsked(vm.Supported())) return 0;
  if (args[0] == "early") ::raise(SIGABRT);
  auto handoff = ExecHandoff::FromEnvironment();
  if (!handoff.ok() || *handoff == nullptr) return Say("no handoff", 20);
  vm.fault = [&](absl::string_view call) {
    if (absl::StrCat("die-", call) == args[0]) ::raise(SIGKILL);
    return call == args[0] ? absl::InternalError(absl::StrCat("cannot ", call)) : absl::OkStatus();
  };
  auto incoming = CreateExecIncoming(*std::move(handoff), {}, &vm);
  if (!incoming.ok()) return Say("no incoming", 21);
  return Say(absl::StrCat("ran on: ", (*incoming)->Run().ToString()), 22);
}

SubprocessResult RunDyingGuest(Phase phase) {
  const auto result = RunSubprocess(HelperCommand("DyingGuest", {absl::StrCat(static_cast<int>(phase))}));
  EXPECT_THAT(result.status(), IsOk());
  EXPECT_EQ(result->exit_code, 128 + SIGKILL) << result->output;
  return *result;
}

SubprocessResult RunGuest(std::vector<std::string> args) {
  const auto result = RunSubprocess(HelperCommand("Guest", std::move(args)));
  EXPECT_THAT(result.status(), IsOk());
  return *result;
}

TEST(ExecTest, GuestGoesThroughManyProgramsInOneProcess) {
  const SubprocessResult result = RunGuest({"20"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr(absl::StrCat("pid ", result.pid, ": arrived"))) << "the PID changed";
}

TEST(ExecTest, HandoversLeaveNoFdBehind) {
  const std::string once = RunGuest({"1"}).output;
  const std::string often = RunGuest({"9"}).output;
  EXPECT_EQ(once.substr(once.find("fds")), often.substr(often.find("fds")));
}

TEST(ExecTest, PrefixCommandsAreFollowed) {
  std::vector<std::string> words = {"0", "env", "A=B"};
  for (const std::string& word : HelperCommand("Guest", {"0"})) words.push_back(word);
  const SubprocessResult result = RunGuest(words);
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("arrived"));
}

TEST(ExecTest, ProgramThatDoesNotExistIsNamed) {
  EXPECT_THAT(RunGuest({"0", "/nonexistent/vmm"}).output, HasSubstr("still here: execvp /nonexistent/vmm failed"));
}

TEST(ExecTest, ProgramThatKnowsNothingOfItIsRefused) {
  EXPECT_THAT(RunGuest({"0", "true"}).output,
              HasSubstr("still here: true: asked whether it can take the guest over, it "));
}

TEST(ExecTest, ProgramThatCrashesWhenAskedIsRefused) {
  EXPECT_THAT(RunGuest({"0", "sh", "-c", "kill -SEGV $$"}).output, HasSubstr("was killed by signal 11"));
}

TEST(ExecTest, ProgramThatFailsToRestoreGivesTheGuestBackInTheSameProcess) {
  for (const std::string call : {"build", "load", "apply"}) {
    std::vector<std::string> words = HelperCommand("BadGuest", {call});
    words.insert(words.begin(), "0");
    const SubprocessResult result = RunGuest(words);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr(absl::StrCat("pid ", result.pid, ": back in the old program: ")));
    EXPECT_THAT(result.output, HasSubstr(absl::StrCat("cannot ", call)));
  }
}

// Before the state is whole the guest is in one process only, and ends with it; nobody may run what is left.
TEST(ExecTest, OldProgramThatDiesBeforeTheStateIsWholeTakesTheGuestAlong) {
  for (const Phase phase : {Phase::kCheck, Phase::kPrepare, Phase::kStop, Phase::kSave}) {
    EXPECT_EQ(RunDyingGuest(phase).output, "") << PhaseName(phase);
  }
}

TEST(ExecTest, OldProgramThatDiesOnceTheStateIsWholeIsStartedAgain) {
  const SubprocessResult result = RunDyingGuest(Phase::kCommit);
  EXPECT_THAT(result.output, HasSubstr("back in the old program: "));
}

TEST(ExecTest, ProgramThatDiesBeforeTheCommitLosesTheGuestToTheKeeper) {
  for (const std::string moment : {"early", "die-build", "die-load", "die-apply"}) {
    std::vector<std::string> words = HelperCommand("BadGuest", {moment});
    words.insert(words.begin(), "0");
    const SubprocessResult result = RunGuest(words);
    EXPECT_GT(result.exit_code, 128) << moment << ": " << result.output;
    EXPECT_THAT(result.output, HasSubstr("back in the old program: ")) << moment;
    EXPECT_THAT(result.output, HasSubstr("ended before the guest ran in it")) << moment;
  }
}

}  // namespace
}  // namespace cpr
