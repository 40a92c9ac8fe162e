// -sandbox on under real VMMs: every handover still works, on both sides.

#include <sys/prctl.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "tests/driver/fault.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"
#include "tests/driver/programs.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr Mode kModes[] = {Mode::kTransfer, Mode::kExec, Mode::kReboot};
constexpr absl::Duration kTimeout = absl::Seconds(20);

// Every thread of `pid` is restricted. How many there are.
int ExpectRestricted(pid_t pid) {
  int threads = 0;
  for (const auto& task : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"))) {
    std::ifstream file(task.path() / "status");
    std::vector<std::string> said;
    for (std::string line; std::getline(file, line);) {
      if (absl::StartsWith(line, "Seccomp:") || absl::StartsWith(line, "NoNewPrivs:")) said.push_back(line);
    }
    EXPECT_THAT(said, ::testing::ElementsAre("NoNewPrivs:\t1", "Seccomp:\t2")) << task.path();
    ++threads;
  }
  return threads;
}

TEST(Sandbox, EveryModeHandsOverInIt) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig,
                           GuestRig::Start({.vcpus = 2, .more = {"-sandbox", "on"}}));
  EXPECT_GE(ExpectRestricted(rig->vmm().process().pid()), 3);
  for (int round = 0; round < 2; ++round) {
    for (const Mode mode : kModes) {
      SCOPED_TRACE(absl::StrCat(ModeName(mode), ", round ", round));
      CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig->HandOver(mode));
      EXPECT_THAT(handover.verdict, IsOk());
      EXPECT_GE(ExpectRestricted(rig->vmm().process().pid()), 3);
    }
  }
}

// A disk has a thread of its own, which reads and writes.
TEST(Sandbox, DevicesGoAlongInIt) {
  CPR_SKIP_WITHOUT_KVM();
  const testing::TempFolder folder;
  std::ofstream(folder.File("disk")) << std::string(4096, 'd');
  CPR_ASSERT_OK_AND_ASSIGN(
      const std::unique_ptr<GuestRig> rig,
      GuestRig::Start(
          {.more = {"-sandbox", "on", "-drive", absl::StrCat("if=none,id=d0,format=raw,file=", folder.File("disk")),
                    "-device", "virtio-blk-pci,drive=d0", "-chardev",
                    absl::StrCat("socket,id=c0,server=on,wait=off,path=", folder.File("port")), "-device",
                    "virtserialport,chardev=c0,name=port", "-device", "virtio-rng-pci"}}));
  for (const Mode mode : kModes) {
    SCOPED_TRACE(ModeName(mode));
    CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig->HandOver(mode));
    EXPECT_THAT(handover.verdict, IsOk());
    EXPECT_GE(ExpectRestricted(rig->vmm().process().pid()), 3);
  }
}

// A new program that cannot restore sends the guest back: the old one starts under the filter, too.
TEST(Sandbox, GuestComesBackInIt) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({.more = {"-sandbox", "on"}}));
  ASSERT_THAT(rig->vmm().SetMode(Mode::kExec), IsOk());
  std::vector<std::string> command = rig->ExecCommand("memfd:");
  command.insert(command.end(), {"-smp", "3"});
  ASSERT_THAT(rig->vmm().SetExecCommand(command), IsOk());
  ASSERT_THAT(rig->vmm().Migrate("memfd:"), IsOk());
  // There and back again.
  ASSERT_THAT(rig->vmm().Reconnect(), IsOk());
  EXPECT_THAT(rig->vmm().qmp().AwaitStatus("running"), IsOk());
  EXPECT_THAT(rig->vmm().qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("smp")));
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
  ExpectRestricted(rig->vmm().process().pid());
}

// It is the keeper's child that starts the old program when the new one crashes.
TEST(Sandbox, GuestComesBackFromACrashInIt) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::string faulty, FindBuilt("tests/driver/cpr-vmm-faulty"));
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig,
                           GuestRig::Start({.vmm = faulty, .more = {"-sandbox", "on"}}));
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // the old program comes back as a child of a process that ended
  std::vector<std::string> command = FaultPrefix(Phase::kSave, "crash");
  for (const std::string& word : rig->ExecCommand("memfd:")) command.push_back(word);
  ASSERT_THAT(rig->vmm().SetMode(Mode::kExec), IsOk());
  ASSERT_THAT(rig->vmm().SetExecCommand(command), IsOk());
  rig->vmm().Migrate("memfd:").IgnoreError();
  EXPECT_THAT(rig->vmm().process().Wait(kTimeout), IsOk()) << "the new program ends";
  ASSERT_THAT(rig->vmm().Reconnect(kTimeout), IsOk());
  EXPECT_THAT(rig->vmm().qmp().AwaitStatus("running"), IsOk());
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
  ExpectRestricted(rig->vmm().process().pid());
}

TEST(Sandbox, CommandsTakeAndGiveTheState) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({.more = {"-sandbox", "on"}}));
  const std::string state = rig->File("state.gz");
  ASSERT_THAT(rig->vmm().SetMode(Mode::kReboot), IsOk());
  ASSERT_THAT(rig->vmm().SetIgnoreShared(), IsOk());
  ASSERT_THAT(rig->vmm().Migrate(absl::StrCat("exec:gzip -c > ", state)), IsOk());
  ASSERT_THAT(rig->vmm().qmp().AwaitMigration(), IsOk());
  ASSERT_THAT(rig->vmm().Quit(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig->StartAnother({"-incoming", absl::StrCat("exec:gzip -dc ", state)}));
  EXPECT_THAT(next.qmp().AwaitStatus("running"), IsOk()) << next.Log();
  rig->Replace(std::move(next));
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

TEST(Sandbox, SpawnDeniedIsSaidBeforehand) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig,
                           GuestRig::Start({.more = {"-sandbox", "on,spawn=deny,resourcecontrol=deny"}}));
  ASSERT_THAT(rig->vmm().SetMode(Mode::kReboot), IsOk());
  EXPECT_THAT(rig->vmm().Migrate("exec:cat > /dev/null"),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("-sandbox spawn=deny lets no command be run")));
  ASSERT_THAT(rig->vmm().SetMode(Mode::kExec), IsOk());
  ASSERT_THAT(rig->vmm().SetExecCommand(rig->ExecCommand("memfd:")), IsOk());
  EXPECT_THAT(rig->vmm().Migrate("memfd:"),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("-sandbox spawn=deny lets no other program be executed")));
  for (const Mode mode : {Mode::kTransfer, Mode::kReboot}) {
    CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig->HandOver(mode));
    EXPECT_THAT(handover.verdict, IsOk());
    ExpectRestricted(rig->vmm().process().pid());
  }
}

}  // namespace
}  // namespace cpr
