// SIGKILL to the old or the new VMM at each of the six phases, in each mode; kill_cases.h says what must come of each.
// Afterwards
//  * exactly one side runs the guest, seen from outside: every vCPU's beat goes on in the guest's RAM, the guest
//    verifies itself, and the VMM that answers for it is the only process that is left;
//  * it can be handed over again, in the same mode;
//  * or, where the killed process was the only one that held the guest, there is a state file that resumes it
//    (cpr-reboot), or the guest ended with its VMM, as it does whenever a VMM is killed: then nobody runs what is left;
//  * no keeper, no temporary file and no half of a state file stays behind.
// Ends with a table of what came of it.

#include <signal.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "libcpr/modes/phase.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/driver/fault.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"
#include "tests/driver/processes.h"
#include "tests/driver/programs.h"
#include "tests/kvm/kill_cases.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(30);
// Longer than anything that is under way could take.
constexpr absl::Duration kStandstill = absl::Milliseconds(500);
constexpr int kKilled = 128 + SIGKILL;
constexpr Victim kOld = Victim::kOld, kNew = Victim::kNew;
constexpr char kFormerState[] = "what lay under this name before";

std::vector<KillCase> Possible() {
  std::vector<KillCase> cases;
  for (const KillCase& c : kKillCases) {
    if (c.outcome != Outcome::kNobody) cases.push_back(c);
  }
  return cases;
}

// Counts what came of the cases, and prints it when all is over.
class Tally : public ::testing::Environment {
 public:
  void SetUp() override { AdoptOrphans(); }
  void Add(const KillCase& c) {
    lines_.push_back(absl::StrCat(ModeName(c.mode), "\t", PhaseName(c.phase), "\t", c.victim == kOld ? "old" : "new",
                                  "\t", OutcomeText(c.outcome), ": ", c.why));
    ++counts_[c.outcome];
  }
  void TearDown() override {
    if (lines_.empty()) return;
    std::printf("\nmode\tphase\tkilled\toutcome\n");
    for (const std::string& line : lines_) std::printf("%s\n", line.c_str());
    std::printf("\n");
    for (const auto& [outcome, count] : counts_) std::printf("%3d  %s\n", count, OutcomeText(outcome).c_str());
    std::printf("%3zu  killed in all\n", lines_.size());
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

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class KillBase : public ::testing::Test {
 protected:
  // The guest; its first VMM with `prefix`.
  void StartGuest(const std::vector<std::string>& prefix) {
    CPR_ASSERT_OK_AND_ASSIGN(const std::string faulty, FindBuilt("tests/driver/cpr-vmm-faulty"));
    CPR_ASSERT_OK_AND_ASSIGN(rig_, GuestRig::Start({.vmm = faulty, .vcpus = 2, .ram_mib = 64, .prefix = prefix}));
  }
  Vmm& vmm() { return rig_->vmm(); }

  static void ExpectKilled(Vmm& vmm) { EXPECT_EQ(vmm.process().Wait(kTimeout).value_or(-1), kKilled); }

  // The VMM that the rig has runs the guest, and nobody else can: no other process is left.
  void ExpectGuestRuns() {
    EXPECT_THAT(vmm().qmp().AwaitStatus("running", kTimeout), IsOk()) << vmm().Log();
    EXPECT_THAT(rig_->view().AwaitBeats(kTimeout), IsOk());
    EXPECT_THAT(rig_->view().AwaitCopy(kTimeout), IsOk());
    EXPECT_THAT(rig_->view().Verify(kTimeout), IsOk());
    EXPECT_THAT(AwaitDescendants({vmm().process().pid()}, kTimeout), IsOk());
    ExpectNoTemporaryFile();
  }

  // Nobody runs the guest: no vCPU's beat moves. `others` live and do not say that it runs.
  void ExpectGuestStands(const std::vector<Vmm*>& others) {
    const std::vector<uint64_t> before = Beats();
    EXPECT_THAT(rig_->view().AwaitBeats(kStandstill), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
    EXPECT_EQ(Beats(), before);
    for (Vmm* other : others) EXPECT_NE(other->RunState().value_or("gone"), "running");
    ExpectNoTemporaryFile();
  }

  std::vector<uint64_t> Beats() const {
    std::vector<uint64_t> beats;
    for (unsigned i = 0; i < rig_->view().abi().vcpu_count; ++i) beats.push_back(rig_->view().beats(i));
    return beats;
  }

  void ExpectNoTemporaryFile() const {
    for (const auto& entry : std::filesystem::directory_iterator(rig_->folder())) {
      EXPECT_FALSE(absl::EndsWith(entry.path().string(), ".tmp")) << entry.path();
    }
  }

  // Whoever has the guest can give it away again, to a VMM without faults.
  void ExpectAnotherHandover(Mode mode) {
    CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig_->HandOver(mode));
    EXPECT_THAT(handover.verdict, IsOk());
    ExpectGuestRuns();
  }

  std::unique_ptr<GuestRig> rig_;
};

class Kill : public KillBase, public ::testing::WithParamInterface<KillCase> {
 protected:
  void SetUp() override { CPR_SKIP_WITHOUT_KVM(); }

  static bool Kills(Victim victim) { return GetParam().victim == victim; }
  // The words that make a VMM the victim, if `side` is.
  static std::vector<std::string> FaultOf(Victim side) {
    return Kills(side) ? FaultPrefix(GetParam().phase, "kill") : std::vector<std::string>();
  }

  void RunTransfer();
  void RunExec();
  void RunReboot();
  // Resumes the guest from `state` in a VMM of its own, by a script's steps.
  absl::StatusOr<Vmm> StartFromFile(const std::string& state, const std::vector<std::string>& prefix = {});
  void ExpectResumesOnce(const std::string& state);
};

TEST_P(Kill, ExactlyOneSideRunsTheGuest) {
  const KillCase& c = GetParam();
  if (c.mode == Mode::kTransfer && c.victim == kNew && c.phase == Phase::kStop) {
    StartGuest(FaultPrefix(c.phase, "stop"));
  } else {
    StartGuest(FaultOf(kOld));
  }
  if (HasFatalFailure()) return;
  if (c.mode == Mode::kTransfer) RunTransfer();
  if (c.mode == Mode::kExec) RunExec();
  if (c.mode == Mode::kReboot) RunReboot();
  if (HasFatalFailure()) return;
  if (c.outcome == Outcome::kEnded) {
    EXPECT_THAT(AwaitDescendants({}, kTimeout), IsOk());
  } else {
    ExpectGuestRuns();
    ExpectAnotherHandover(c.mode);
  }
  if (!HasFailure()) tally->Add(c);
}

void Kill::RunTransfer() {
  const KillCase& c = GetParam();
  const std::string cpr_path = rig_->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig_->NextName("main"));
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother(GuestRig::TransferWords(main_uri, cpr_path), FaultOf(kNew)));
  ASSERT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  ASSERT_THAT(vmm().SetMode(Mode::kTransfer), IsOk());
  vmm().MigrateChannels(main_uri, cpr_path).IgnoreError();  // the old VMM may die before it has answered
  if (c.victim == kNew && c.phase == Phase::kStop) {
    ASSERT_THAT(AwaitStopped(vmm().process().pid(), kTimeout), IsOk());
    next.process().Signal(SIGKILL);
    vmm().process().Signal(SIGCONT);
  }
  ExpectKilled(c.victim == kOld ? vmm() : next);
  switch (c.outcome) {
    case Outcome::kOldRuns:
      EXPECT_THAT(vmm().qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("failed")));
      return;
    case Outcome::kNewRuns:
      rig_->Replace(std::move(next));
      return;
    default:
      ExpectGuestStands({&next});
  }
}

void Kill::RunExec() {
  ASSERT_THAT(vmm().SetMode(Mode::kExec), IsOk());
  std::vector<std::string> command = FaultOf(kNew);
  for (const std::string& word : rig_->ExecCommand("memfd:")) command.push_back(word);
  ASSERT_THAT(vmm().SetExecCommand(command), IsOk());
  vmm().Migrate("memfd:").IgnoreError();
  ExpectKilled(vmm());
  if (GetParam().outcome == Outcome::kEnded) return ExpectGuestStands({});
  ASSERT_THAT(vmm().Reconnect(kTimeout), IsOk()) << "the keeper does not start the old program";
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

// The file is whole: it resumes the guest, and never a second time.
void Kill::ExpectResumesOnce(const std::string& state) {
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, StartFromFile(state));
  ASSERT_THAT(next.qmp().AwaitStatus("running", kTimeout), IsOk()) << next.Log();
  rig_->Replace(std::move(next));
  CPR_ASSERT_OK_AND_ASSIGN(Vmm second, StartFromFile(state));
  EXPECT_THAT(second.qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("already")));
}

void Kill::RunReboot() {
  const std::string state = rig_->File("vm.state");
  std::ofstream(state) << kFormerState;
  ASSERT_THAT(vmm().SetMode(Mode::kReboot), IsOk());
  ASSERT_THAT(vmm().SetIgnoreShared(), IsOk());
  vmm().Migrate(absl::StrCat("file:", state)).IgnoreError();
  if (Kills(kNew)) {
    ASSERT_THAT(vmm().qmp().AwaitStatus("postmigrate"), IsOk());
    ASSERT_THAT(vmm().Quit(), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(Vmm victim, StartFromFile(state, FaultOf(kNew)));
    ExpectKilled(victim);
    return ExpectResumesOnce(state);
  }
  ExpectKilled(vmm());
  if (GetParam().outcome == Outcome::kFileResumes) return ExpectResumesOnce(state);
  EXPECT_EQ(ReadFile(state), kFormerState) << "half a state, or none, in place of the file that was there";
  ExpectGuestStands({});
}

std::string CaseName(const ::testing::TestParamInfo<KillCase>& info) {
  const std::string mode(absl::StripPrefix(ModeName(info.param.mode), "cpr-"));
  return absl::StrCat(mode, info.param.victim == kOld ? "_old_at_" : "_new_at_", PhaseName(info.param.phase));
}

INSTANTIATE_TEST_SUITE_P(Phases, Kill, ::testing::ValuesIn(Possible()), CaseName);

TEST(KillTable, HasEveryModeVictimAndPhaseOnce) {
  std::set<std::string> named;
  for (const KillCase& c : kKillCases) {
    EXPECT_TRUE(named.insert(CaseName({c, 0})).second) << CaseName({c, 0});
  }
  EXPECT_EQ(named.size(), 3u * 2u * kPhaseCount);
}

class KillMore : public KillBase {
 protected:
  void SetUp() override { CPR_SKIP_WITHOUT_KVM(); }
};

// The state is on its way and not read yet: the old side takes the guest back.
TEST_F(KillMore, NewVmmWhileTheOldOneSaves) {
  ASSERT_NO_FATAL_FAILURE(StartGuest(FaultPrefix(Phase::kSave, "stop")));
  const std::string cpr_path = rig_->NextName("cpr");
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next,
                           rig_->StartAnother(GuestRig::TransferWords(absl::StrCat("unix:", cpr_path), cpr_path)));
  ASSERT_THAT(vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(vmm().MigrateChannels(absl::StrCat("unix:", cpr_path), cpr_path), IsOk());
  ASSERT_THAT(AwaitStopped(vmm().process().pid(), kTimeout), IsOk());
  next.process().Signal(SIGKILL);
  ExpectKilled(next);
  vmm().process().Signal(SIGCONT);
  EXPECT_THAT(vmm().qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("failed")));
  ExpectGuestRuns();
  ExpectAnotherHandover(Mode::kTransfer);
}

// The guest has run in the new VMM when that is killed, before it could say so: its RAM has moved on, and the old VMM,
// which has all of the state still, must not run it.
TEST_F(KillMore, NewVmmThatRanTheGuestAlready) {
  ASSERT_NO_FATAL_FAILURE(StartGuest(FaultPrefix(Phase::kCommit, "stop")));
  const std::string cpr_path = rig_->NextName("cpr");
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next,
                           rig_->StartAnother(GuestRig::TransferWords(absl::StrCat("unix:", cpr_path), cpr_path)));
  ASSERT_THAT(vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(vmm().MigrateChannels(absl::StrCat("unix:", cpr_path), cpr_path), IsOk());
  ASSERT_THAT(AwaitStopped(vmm().process().pid(), kTimeout), IsOk());
  ASSERT_THAT(next.qmp().AwaitStatus("running", kTimeout), IsOk()) << next.Log();
  EXPECT_THAT(rig_->view().AwaitBeats(kTimeout), IsOk());
  next.process().Signal(SIGKILL);
  ExpectKilled(next);
  vmm().process().Signal(SIGCONT);
  EXPECT_THAT(vmm().qmp().AwaitStatus("postmigrate", kTimeout), IsOk()) << vmm().Log();
  EXPECT_THAT(vmm().qmp().Execute("cont"), StatusIs(absl::StatusCode::kAborted, _));
  ExpectGuestStands({&vmm()});
}

// The keeper is a help, not a need: without it the handover comes off.
TEST_F(KillMore, KeeperBeforeTheExec) {
  ASSERT_NO_FATAL_FAILURE(StartGuest(FaultPrefix(Phase::kStop, "stop")));
  ASSERT_THAT(vmm().SetMode(Mode::kExec), IsOk());
  ASSERT_THAT(vmm().SetExecCommand(rig_->ExecCommand("memfd:")), IsOk());
  ASSERT_THAT(vmm().Migrate("memfd:"), IsOk());
  ASSERT_THAT(AwaitStopped(vmm().process().pid(), kTimeout), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const pid_t keeper, ChildOfName(vmm().process().pid(), "cpr-keeper"));
  EXPECT_EQ(::kill(keeper, SIGKILL), 0);
  vmm().process().Signal(SIGCONT);
  ASSERT_THAT(vmm().AwaitExec(kTimeout), IsOk());
  ExpectGuestRuns();
  ExpectAnotherHandover(Mode::kExec);
}

// A handover by cpr-exec that is called off after prepare ends its keeper.
TEST_F(KillMore, NobodyButExecFails) {
  ASSERT_NO_FATAL_FAILURE(StartGuest({}));
  const std::string program = rig_->File("program");
  ASSERT_THAT(vmm().SetMode(Mode::kExec), IsOk());
  // It answers the question, and is gone when it is to be executed.
  std::vector<std::string> command = rig_->ExecCommand("memfd:");
  std::ofstream(program) << "#!/bin/sh\nrm \"$0\"\nexec " << command[0] << " \"$@\"\n";
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  command[0] = program;
  ASSERT_THAT(vmm().SetExecCommand(command), IsOk());
  ASSERT_THAT(vmm().Migrate("memfd:"), IsOk());
  EXPECT_THAT(vmm().qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr(program)));
  ExpectGuestRuns();
  ExpectAnotherHandover(Mode::kExec);
}

}  // namespace
}  // namespace cpr
