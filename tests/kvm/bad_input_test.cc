// State files that are none, programs that cannot take over, a full disk, a command line that is not the machine's.

#include "tests/kvm/bad_input.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "tests/driver/fault.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"
#include "tests/driver/programs.h"
#include "tests/kvm/altered_state.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::HasSubstr;

// --- state files

class BadStateFile : public BadInput {
 protected:
  void SetUp() override {
    BadInput::SetUp();
    if (rig_ == nullptr) return;
    good_path_ = rig_->File("good.state");
    bad_path_ = rig_->File("bad.state");
    ASSERT_THAT(Save(good_path_), IsOk());
    good_ = ReadFile(good_path_);
    ASSERT_GT(good_.size(), 1000u);
  }

  // A new VMM that is given `path` refuses it: all that it says.
  std::string Refusal(const std::string& path, const std::vector<std::string>& words = {}) {
    std::vector<std::string> incoming = {"-incoming", "defer"};
    incoming.insert(incoming.end(), words.begin(), words.end());
    absl::StatusOr<Vmm> next = rig_->StartAnother(incoming);
    if (!next.ok()) return std::string(next.status().message());
    EXPECT_THAT(next->SetIgnoreShared(), IsOk());
    const JsonValue uri = JsonMembers({{"uri", JsonText(absl::StrCat("file:", path))}});
    absl::Status status = next->qmp().Execute("migrate-incoming", uri).status();
    if (status.ok()) status = next->qmp().AwaitMigration(kTimeout);
    EXPECT_FALSE(status.ok()) << path << " was taken";
    EXPECT_FALSE(absl::StrContains(status.message(), '\n')) << "a refusal is one line: " << status;
    EXPECT_NE(next->RunState().value_or("gone"), "running");
    return absl::StrCat(status.message(), "\n", next->Log());
  }

  std::string RefusalOfBytes(absl::string_view bytes) {
    WriteFile(bad_path_, bytes);
    const std::string refusal = Refusal(bad_path_);
    EXPECT_THAT(refusal, HasSubstr(bad_path_)) << "the error names the file";
    EXPECT_EQ(ReadFile(bad_path_), bytes) << "the file is left as it was";
    return refusal;
  }

  // The old VMM has its guest still: `cont` takes it back.
  void ExpectOldTakesGuestBack() {
    EXPECT_THAT(vmm().qmp().Execute("cont"), IsOk());
    ExpectGuestRunsOn();
  }

  std::string good_path_, bad_path_, good_;
};

TEST_F(BadStateFile, CutAnywhere) {
  for (const size_t size : {good_.size() - 1, good_.size() / 2, size_t{100}, size_t{7}}) {
    SCOPED_TRACE(size);
    RefusalOfBytes(absl::string_view(good_).substr(0, size));
  }
  ExpectOldTakesGuestBack();
}

TEST_F(BadStateFile, AlteredAnywhere) {
  for (const size_t at : {size_t{3}, good_.size() / 3, good_.size() / 2, good_.size() - 2}) {
    SCOPED_TRACE(at);
    std::string altered = good_;
    altered[at] = static_cast<char>(altered[at] ^ 0x20);
    RefusalOfBytes(altered);
  }
  ExpectOldTakesGuestBack();
}

TEST_F(BadStateFile, ForeignEmptyOrMissing) {
  RefusalOfBytes("");
  RefusalOfBytes(absl::StrCat("QEVM", std::string(5000, '\3')));
  RefusalOfBytes(ReadFile(FindBuilt("tests/guest/payload.elf").value()));
  EXPECT_THAT(Refusal(rig_->File("no.state")), HasSubstr("no.state"));
  EXPECT_THAT(Refusal(rig_->folder()), HasSubstr(rig_->folder()));
  ExpectOldTakesGuestBack();
}

TEST_F(BadStateFile, OfANewerFormat) {
  std::string newer = good_;
  newer[8] = 99;  // format_major, little-endian, behind the magic
  EXPECT_THAT(RefusalOfBytes(newer), HasSubstr("99"));
  ExpectOldTakesGuestBack();
}

// A section that says of itself what reader it needs; all checksums are right.
TEST_F(BadStateFile, WithASectionForANewerReader) {
  const std::string newer = AlterSection(
      good_, "serial", 0, [](SectionInfo& info, std::string&) { info.version = info.min_reader_version = 9; });
  EXPECT_THAT(RefusalOfBytes(newer),
              HasSubstr("section 'serial' instance 0 version 9: needs reader >= 9, this reader knows 1"));
  const std::string unknown =
      AlterSection(good_, "cmos", 0, [](SectionInfo& info, std::string&) { info.name = "tpm"; });
  EXPECT_THAT(RefusalOfBytes(unknown), HasSubstr("section 'tpm' instance 0 version 1: this reader does not know it"));
  ExpectOldTakesGuestBack();
}

// RAM has moved on since: the state is void, and says so.
TEST_F(BadStateFile, OfAGuestThatRanOn) {
  ExpectOldTakesGuestBack();
  EXPECT_THAT(Refusal(good_path_), HasSubstr("took its guest back"));
  ExpectGuestRunsOn();
}

TEST_F(BadStateFile, ResumedOnceAlready) {
  ASSERT_THAT(vmm().Quit(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother({"-incoming", "defer"}));
  ASSERT_THAT(next.SetIgnoreShared(), IsOk());
  const JsonValue uri = JsonMembers({{"uri", JsonText(absl::StrCat("file:", good_path_))}});
  ASSERT_THAT(next.qmp().Execute("migrate-incoming", uri), IsOk());
  ASSERT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  rig_->Replace(std::move(next));
  EXPECT_THAT(Refusal(good_path_), HasSubstr("was resumed from this state already"));
  ExpectGuestRunsOn();
}

TEST_F(BadStateFile, WithAnotherMachinesCommandLine) {
  EXPECT_THAT(Refusal(good_path_, {"-smp", "3"}), HasSubstr("smp"));
  ExpectOldTakesGuestBack();
}

// --- the new program of cpr-exec

TEST_F(BadInput, ExecOfNothing) {
  ExpectFails("/no/such/vmm", [&] { return Exec({"/no/such/vmm", "-incoming", "memfd:"}); });
}

TEST_F(BadInput, ExecOfWhatIsNoProgram) {
  const std::string path = rig_->File("text");
  WriteFile(path, "hello");
  ExpectFails(path, [&] { return Exec({path, "-incoming", "memfd:"}); });
}

TEST_F(BadInput, ExecOfAProgramThatIsNoVmm) {
  ExpectFails("/bin/true", [&] { return Exec({"/bin/true", "-incoming", "memfd:"}); });
}

TEST_F(BadInput, ExecOfAProgramThatCrashesWhenAsked) {
  const std::string path = rig_->File("crasher");
  WriteFile(path, "#!/bin/sh\nkill -SEGV $$\n");
  ASSERT_EQ(::chmod(path.c_str(), 0700), 0);
  ExpectFails(path, [&] { return Exec({path, "-incoming", "memfd:"}); });
}

TEST_F(BadInput, ExecLeavesNoPartialStateFile) {
  const std::string path = rig_->File("exec.state");
  ExpectFails("/no/such/vmm", [&] {
    const std::string uri = absl::StrCat("file:", path);
    return Exec({"/no/such/vmm", "-incoming", uri}, uri);
  });
  std::error_code ignored;
  const auto size = std::filesystem::file_size(path, ignored);
  EXPECT_TRUE(ignored || size == 0) << "a state that nobody may resume was left: " << size << " bytes";
}

// A command line that is not the machine's: the new program names the difference and gives the guest back.
TEST_F(BadInput, ExecWithAnotherMachinesCommandLine) {
  std::vector<std::string> command = rig_->ExecCommand("memfd:");
  for (size_t i = 0; i + 1 < command.size(); ++i) {
    if (command[i] == "-smp") command[i + 1] = "2";
  }
  const pid_t pid = vmm().process().pid();
  EXPECT_THAT(Exec(command), _);
  ExpectGuestRunsOn();
  EXPECT_EQ(PeerPid(vmm().qmp().fd()), pid);
  CPR_ASSERT_OK_AND_ASSIGN(const JsonValue migration, vmm().qmp().Execute("query-migrate"));
  EXPECT_EQ(JsonMemberText(migration, "status"), "failed");
  EXPECT_THAT(JsonMemberText(migration, "error-desc"), HasSubstr("smp"));
}

struct Crash {
  Phase phase;
  std::string action;
};

class BadProgram : public BadInput, public ::testing::WithParamInterface<Crash> {};

// The new program ends before, while or after it restores, but before the guest runs in it: the old program is back.
TEST_P(BadProgram, OldProgramIsBack) {
  // A program that took its guest by cpr-exec is what to compare with.
  ASSERT_THAT(rig_->HandOver(Mode::kExec), IsOk());
  const size_t fds_before = CountFds(vmm().process().pid());
  std::vector<std::string> command = FaultPrefix(GetParam().phase, GetParam().action);
  for (const std::string& word : rig_->ExecCommand("memfd:")) command.push_back(word);
  ASSERT_THAT(vmm().SetMode(Mode::kExec), IsOk());
  ASSERT_THAT(vmm().SetExecCommand(command), IsOk());
  vmm().Migrate("memfd:").IgnoreError();
  EXPECT_THAT(vmm().process().Wait(kTimeout), IsOk()) << "the new program ends";
  ASSERT_THAT(vmm().Reconnect(kTimeout), IsOk());
  ExpectGuestRunsOn();
  CPR_ASSERT_OK_AND_ASSIGN(const JsonValue migration, vmm().qmp().Execute("query-migrate"));
  EXPECT_EQ(JsonMemberText(migration, "status"), "failed");
  EXPECT_THAT(JsonMemberText(migration, "error-desc"), HasSubstr("ended before the guest ran"));
  EXPECT_LE(CountFds(vmm().process().pid()), fds_before);
  // And a good program can take it from there.
  CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig_->HandOver(Mode::kExec));
  EXPECT_THAT(handover.verdict, IsOk());
}

INSTANTIATE_TEST_SUITE_P(Moments, BadProgram,
                         ::testing::Values(Crash{Phase::kCheck, "crash"}, Crash{Phase::kPrepare, "exit"},
                                           Crash{Phase::kSave, "crash"}, Crash{Phase::kCommit, "crash"},
                                           Crash{Phase::kCommit, "exit"}),
                         [](const auto& info) {
                           return absl::StrCat(info.param.action, "At", PhaseName(info.param.phase));
                         });

// --- the disk

// A disk that has room for the beginning of the state, but not for all of it.
class FullDisk : public BadInput {
 protected:
  // The guest, in a VMM with a mount namespace of its own (exec keeps the PID), where disk_ has `size`.
  void StartWithDisk(const std::string& size) {
    disk_ = rig_->File("disk");
    ASSERT_TRUE(std::filesystem::create_directory(disk_));
    const std::string script = absl::StrCat("mount -t tmpfs -o size=", size, " none ", disk_, " && exec \"$@\"");
    CPR_ASSERT_OK_AND_ASSIGN(before_,
                             GuestRig::Start({.ram_mib = 64, .prefix = {"unshare", "-m", "sh", "-c", script, "sh"}}));
    rig_.swap(before_);
  }
  // disk_ as the VMM sees it.
  std::string Inside() { return absl::StrCat("/proc/", vmm().process().pid(), "/root", disk_); }

  std::unique_ptr<GuestRig> before_;  // whose folder disk_ is in
  std::string disk_;
};

TEST_F(FullDisk, InTheMiddleOfTheState) {
  for (const std::string size : {"4k", "8k"}) {
    SCOPED_TRACE(size);
    ASSERT_NO_FATAL_FAILURE(StartWithDisk(size));
    const std::string path = absl::StrCat(disk_, "/vm.state");
    ExpectFails(path, [&] { return Save(path); });
    EXPECT_EQ(CountFiles(Inside()), 0u) << "a partial file";
    rig_.swap(before_);
    std::filesystem::remove(disk_);
  }
}

TEST_F(FullDisk, InTheMiddleOfTheRam) {
  ASSERT_NO_FATAL_FAILURE(StartWithDisk("3m"));
  const std::string path = absl::StrCat(disk_, "/vm.state");
  ExpectFails("RAM block", [&] { return SaveWithRam(path); });
  EXPECT_EQ(CountFiles(Inside()), 0u) << "a partial file";
}

TEST_F(FullDisk, OfACprExec) {
  ASSERT_NO_FATAL_FAILURE(StartWithDisk("4k"));
  const std::string path = absl::StrCat(disk_, "/vm.state");
  const std::string uri = absl::StrCat("file:", path);
  ExpectFails("state of cpr-exec", [&] { return Exec(rig_->ExecCommand(uri), uri); });
  EXPECT_EQ(std::filesystem::file_size(absl::StrCat(Inside(), "/vm.state")), 0u) << "a partial file";
}

// No file may grow beyond this (ulimit -f): without care the kernel ends the process that tries, by SIGXFSZ.
class FileSizeLimit : public BadInput {
 protected:
  void Limit(uint64_t size_bytes) {
    const rlimit limit = {size_bytes, RLIM_INFINITY};
    ASSERT_EQ(::prlimit(vmm().process().pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  }
  std::string path() { return rig_->File("vm.state"); }
};

TEST_F(FileSizeLimit, InTheMiddleOfTheState) {
  ASSERT_NO_FATAL_FAILURE(Limit(4096));
  ExpectFails("File too large", [&] { return Save(path()); });
  EXPECT_FALSE(std::filesystem::exists(path())) << "a partial file";
}

TEST_F(FileSizeLimit, OfACprExec) {
  ASSERT_NO_FATAL_FAILURE(Limit(4096));
  // Not that of the new program, which is asked before: a sanitizer writes files of its own.
  std::vector<std::string> command = {"/bin/sh", "-c", "ulimit -f unlimited; exec \"$@\"", "sh"};
  for (const std::string& word : rig_->ExecCommand("memfd:")) command.push_back(word);
  ExpectFails("File too large", [&] { return Exec(command); });
}

TEST_F(FileSizeLimit, InTheMiddleOfTheRam) {
  ASSERT_NO_FATAL_FAILURE(Limit(3 << 20));
  ExpectFails("File too large", [&] { return SaveWithRam(path()); });
  EXPECT_FALSE(std::filesystem::exists(path())) << "a partial file";
}

TEST_F(BadInput, FolderDoesNotExist) {
  ExpectFails("/no/such/folder", [&] { return Save("/no/such/folder/vm.state"); });
}

TEST_F(BadInput, RefusalsNameTheRule) {
  EXPECT_THAT(vmm().Migrate("file:/tmp/x"), StatusIs(absl::StatusCode::kAborted, HasSubstr("cpr-reboot")));
  ASSERT_THAT(vmm().SetMode(Mode::kExec), IsOk());
  EXPECT_THAT(vmm().Migrate("memfd:"),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("cpr-exec mode requires setting cpr-exec-command")));
  ASSERT_THAT(vmm().SetMode(Mode::kTransfer), IsOk());
  EXPECT_THAT(vmm().Migrate("unix:/tmp/x"),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("missing 'cpr' migration channel")));
  ExpectGuestRunsOn();
}

}  // namespace
}  // namespace cpr
