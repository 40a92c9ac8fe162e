// SIGKILL to the old or the new VMM at each of the six phases, in each mode. Afterwards exactly one side runs the
// guest, seen from outside: its beat goes on and it verifies itself, and exactly one process says "running". Where the
// process that was killed was the only one that held the guest, there is a state file that resumes it (cpr-reboot), or
// the guest ended with its VMM, as it does whenever a VMM is killed: then nobody may run what is left. Ends with a
// table of what came of it.

#include <sys/prctl.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/driver/fault.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/programs.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(30);
constexpr int kKilled = 128 + SIGKILL;

enum class Victim { kOld, kNew };
enum class Outcome {
  kOldRuns,      // as if nothing had been asked
  kNewRuns,      // the handover came off
  kOldReturned,  // cpr-exec: the keeper started the old program again, with the state
  kFileResumes,  // cpr-reboot: the next VMM takes the guest from its file
  kEnded,        // the guest ended with the only process that held it
};

struct Case {
  Mode mode;
  Victim victim;
  Phase phase;
  Outcome outcome;
};

std::string OutcomeText(Outcome outcome) {
  switch (outcome) {
    case Outcome::kOldRuns:
      return "the old VMM runs the guest";
    case Outcome::kNewRuns:
      return "the new VMM runs the guest";
    case Outcome::kOldReturned:
      return "the old program was started again and runs the guest";
    case Outcome::kFileResumes:
      return "the guest was resumed from its state file";
    case Outcome::kEnded:
      return "the guest ended with its only holder; nobody runs it";
  }
  return "";
}

// Counts what came of the cases, and prints it when all is over.
class Tally : public ::testing::Environment {
 public:
  void SetUp() override { ::prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL); }
  void Add(const Case& c) {
    lines_.push_back(absl::StrCat(ModeName(c.mode), "\t", PhaseName(c.phase), "\t",
                                  c.victim == Victim::kOld ? "old" : "new", "\t", OutcomeText(c.outcome)));
    ++counts_[c.outcome];
  }
  void TearDown() override {
    if (lines_.empty()) return;
    std::printf("\nmode\tphase\tkilled\toutcome\n");
    for (const std::string& line : lines_) std::printf("%s\n", line.c_str());
    std::printf("\n");
    for (const auto& [outcome, count] : counts_) std::printf("%3d  %s\n", count, OutcomeText(outcome).c_str());
  }

 private:
  std::vector<std::string> lines_;
  std::map<Outcome, int> counts_;
};

Tally* const tally = [] {
  auto* const made = new Tally;
  ::testing::AddGlobalTestEnvironment(made);
  return made;
}();

class Kill : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override { CPR_SKIP_WITHOUT_KVM(); }

  // The guest, its first VMM with a fault if that is the victim.
  void StartGuest() {
    const absl::StatusOr<std::string> faulty = FindBuilt("tests/driver/cpr-vmm-faulty");
    ASSERT_THAT(faulty, IsOk());
    GuestRigOptions options = {.vmm = *faulty, .vcpus = 2};
    if (GetParam().victim == Victim::kOld) options.prefix = Fault();
    auto rig = GuestRig::Start(std::move(options));
    ASSERT_THAT(rig, IsOk());
    rig_ = *std::move(rig);
  }
  static std::vector<std::string> Fault() { return FaultPrefix(GetParam().phase, "kill"); }
  Vmm& old_vmm() { return rig_->vmm(); }

  static void ExpectKilled(Vmm& vmm) { EXPECT_EQ(vmm.process().Wait(kTimeout).value_or(-1), kKilled); }

  // The guest runs, and only in `vmm`; nobody else of `others` says so.
  void ExpectRunsIn(Vmm& vmm, const std::vector<Vmm*>& others) {
    EXPECT_THAT(vmm.qmp().AwaitStatus("running", kTimeout), IsOk()) << vmm.Log();
    EXPECT_THAT(rig_->view().AwaitBeats(kTimeout), IsOk());
    EXPECT_THAT(rig_->view().Verify(kTimeout), IsOk());
    for (Vmm* other : others) EXPECT_NE(other->RunState().value_or("gone"), "running");
  }

  // Nobody runs the guest: its beat stands still for longer than anything that is under way could take.
  void ExpectEnded(const std::vector<Vmm*>& others) {
    EXPECT_THAT(rig_->view().AwaitBeats(absl::Milliseconds(500)), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
    for (Vmm* other : others) EXPECT_NE(other->RunState().value_or("gone"), "running");
  }

  void RunTransfer();
  void RunExec();
  void RunReboot();
  // Resumes the guest from `state` in a VMM of its own, by a script's steps.
  absl::StatusOr<Vmm> StartFromFile(const std::string& state, const std::vector<std::string>& prefix = {});
  void ExpectFileOutcome(const std::string& state);

  std::unique_ptr<GuestRig> rig_;
};

TEST_P(Kill, ExactlyOneSideRunsTheGuest) {
  ASSERT_NO_FATAL_FAILURE(StartGuest());
  switch (GetParam().mode) {
    case Mode::kTransfer:
      RunTransfer();
      break;
    case Mode::kExec:
      RunExec();
      break;
    default:
      RunReboot();
  }
  if (!HasFailure()) tally->Add(GetParam());
}

void Kill::RunTransfer() {
  const Case& c = GetParam();
  const std::string cpr_path = rig_->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig_->NextName("main"));
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next,
                           rig_->StartAnother(GuestRig::TransferWords(main_uri, cpr_path),
                                              c.victim == Victim::kNew ? Fault() : std::vector<std::string>()));
  ASSERT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  ASSERT_THAT(old_vmm().SetMode(Mode::kTransfer), IsOk());
  // The old VMM may die before it has answered.
  old_vmm().MigrateChannels(main_uri, cpr_path).IgnoreError();
  ExpectKilled(c.victim == Victim::kOld ? old_vmm() : next);
  switch (c.outcome) {
    case Outcome::kOldRuns:
      EXPECT_THAT(old_vmm().qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("failed")));
      return ExpectRunsIn(old_vmm(), {});
    case Outcome::kNewRuns:
      return ExpectRunsIn(next, {});
    default:
      return c.victim == Victim::kOld ? ExpectEnded({&next}) : ExpectEnded({&old_vmm()});
  }
}

void Kill::RunExec() {
  const Case& c = GetParam();
  ASSERT_THAT(old_vmm().SetMode(Mode::kExec), IsOk());
  std::vector<std::string> command;
  if (c.victim == Victim::kNew) command = Fault();
  for (const std::string& word : rig_->ExecCommand("memfd:")) command.push_back(word);
  ASSERT_THAT(old_vmm().SetExecCommand(command), IsOk());
  old_vmm().Migrate("memfd:").IgnoreError();
  ExpectKilled(old_vmm());
  if (c.outcome == Outcome::kEnded) return ExpectEnded({});
  ASSERT_THAT(old_vmm().Reconnect(kTimeout), IsOk()) << "the keeper does not start the old program";
  ExpectRunsIn(old_vmm(), {});
}

absl::StatusOr<Vmm> Kill::StartFromFile(const std::string& state, const std::vector<std::string>& prefix) {
  absl::StatusOr<Vmm> next = rig_->StartAnother({"-incoming", "defer"}, prefix);
  if (!next.ok()) return next.status();
  if (const absl::Status set = next->SetIgnoreShared(); !set.ok()) return set;
  // It may die, or refuse, before it has answered; what it does afterwards tells.
  const JsonValue uri = JsonMembers({{"uri", JsonText(absl::StrCat("file:", state))}});
  next->qmp().Execute("migrate-incoming", uri).IgnoreError();
  return next;
}

void Kill::ExpectFileOutcome(const std::string& state) {
  absl::StatusOr<Vmm> next = StartFromFile(state);
  ASSERT_THAT(next, IsOk());
  if (GetParam().outcome == Outcome::kFileResumes) return ExpectRunsIn(*next, {});
  ExpectEnded({&*next});
}

void Kill::RunReboot() {
  const Case& c = GetParam();
  const std::string state = rig_->File("vm.state");
  ASSERT_THAT(old_vmm().SetMode(Mode::kReboot), IsOk());
  ASSERT_THAT(old_vmm().SetIgnoreShared(), IsOk());
  old_vmm().Migrate(absl::StrCat("file:", state)).IgnoreError();
  if (c.victim == Victim::kOld) {
    ExpectKilled(old_vmm());
    return ExpectFileOutcome(state);
  }
  ASSERT_THAT(old_vmm().qmp().AwaitStatus("postmigrate"), IsOk());
  ASSERT_THAT(old_vmm().Quit(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(Vmm victim, StartFromFile(state, Fault()));
  ExpectKilled(victim);
  ExpectFileOutcome(state);
}

constexpr Outcome kEnded = Outcome::kEnded, kOldRuns = Outcome::kOldRuns, kNewRuns = Outcome::kNewRuns,
                  kOldReturned = Outcome::kOldReturned, kFileResumes = Outcome::kFileResumes;
constexpr Victim kOld = Victim::kOld, kNew = Victim::kNew;

// A new VMM has no phase "stop", and by cpr-exec the old one has no phase "resume": it is gone. The observer is called
// as the phase begins: when the new side enters resume, it is about to take the guest.
constexpr Case kCases[] = {
    {Mode::kTransfer, kOld, Phase::kCheck, kEnded},
    {Mode::kTransfer, kOld, Phase::kPrepare, kEnded},
    {Mode::kTransfer, kOld, Phase::kStop, kEnded},
    {Mode::kTransfer, kOld, Phase::kSave, kEnded},
    {Mode::kTransfer, kOld, Phase::kCommit, kNewRuns},
    {Mode::kTransfer, kOld, Phase::kResume, kNewRuns},
    {Mode::kTransfer, kNew, Phase::kCheck, kOldRuns},
    {Mode::kTransfer, kNew, Phase::kPrepare, kOldRuns},
    {Mode::kTransfer, kNew, Phase::kSave, kOldRuns},
    {Mode::kTransfer, kNew, Phase::kCommit, kOldRuns},
    {Mode::kTransfer, kNew, Phase::kResume, kOldRuns},
    {Mode::kExec, kOld, Phase::kCheck, kEnded},
    {Mode::kExec, kOld, Phase::kPrepare, kEnded},
    {Mode::kExec, kOld, Phase::kStop, kEnded},
    {Mode::kExec, kOld, Phase::kSave, kEnded},
    {Mode::kExec, kOld, Phase::kCommit, kOldReturned},
    {Mode::kExec, kNew, Phase::kCheck, kOldReturned},
    {Mode::kExec, kNew, Phase::kPrepare, kOldReturned},
    {Mode::kExec, kNew, Phase::kSave, kOldReturned},
    {Mode::kExec, kNew, Phase::kCommit, kOldReturned},
    {Mode::kExec, kNew, Phase::kResume, kOldReturned},
    {Mode::kReboot, kOld, Phase::kCheck, kEnded},
    {Mode::kReboot, kOld, Phase::kPrepare, kEnded},
    {Mode::kReboot, kOld, Phase::kStop, kEnded},
    {Mode::kReboot, kOld, Phase::kSave, kEnded},
    {Mode::kReboot, kOld, Phase::kCommit, kFileResumes},
    {Mode::kReboot, kOld, Phase::kResume, kFileResumes},
    {Mode::kReboot, kNew, Phase::kCheck, kFileResumes},
    {Mode::kReboot, kNew, Phase::kPrepare, kFileResumes},
    {Mode::kReboot, kNew, Phase::kSave, kFileResumes},
    {Mode::kReboot, kNew, Phase::kCommit, kFileResumes},
    {Mode::kReboot, kNew, Phase::kResume, kFileResumes},
};

std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  const std::string mode = info.param.mode == Mode::kTransfer ? "Transfer"
                           : info.param.mode == Mode::kExec   ? "Exec"
                                                              : "Reboot";
  return absl::StrCat(mode, info.param.victim == kOld ? "Old" : "New", "At", PhaseName(info.param.phase));
}

INSTANTIATE_TEST_SUITE_P(Phases, Kill, ::testing::ValuesIn(kCases), CaseName);

// The new VMM dies while the old one is in a phase that the new one does not have.
class KillNewDuring : public Kill {};

TEST_P(KillNewDuring, OldRunsOn) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::string faulty, FindBuilt("tests/driver/cpr-vmm-faulty"));
  CPR_ASSERT_OK_AND_ASSIGN(
      rig_, GuestRig::Start({.vmm = faulty, .vcpus = 2, .prefix = FaultPrefix(GetParam().phase, "stop")}));
  const std::string cpr_path = rig_->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig_->NextName("main"));
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother(GuestRig::TransferWords(main_uri, cpr_path)));
  ASSERT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  ASSERT_THAT(old_vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(old_vmm().MigrateChannels(main_uri, cpr_path), IsOk());
  ASSERT_THAT(AwaitStopped(old_vmm().process().pid(), kTimeout), IsOk());
  next.process().Signal(SIGKILL);
  ExpectKilled(next);
  old_vmm().process().Signal(SIGCONT);
  EXPECT_THAT(old_vmm().qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("failed")));
  ExpectRunsIn(old_vmm(), {});
  if (!HasFailure()) tally->Add(GetParam());
}

constexpr Case kStopCases[] = {{Mode::kTransfer, kNew, Phase::kStop, kOldRuns},
                               {Mode::kTransfer, kNew, Phase::kSave, kOldRuns}};
INSTANTIATE_TEST_SUITE_P(Phases, KillNewDuring, ::testing::ValuesIn(kStopCases), CaseName);

}  // namespace
}  // namespace cpr
