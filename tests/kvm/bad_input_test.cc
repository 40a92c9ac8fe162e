// What must go wrong in words and without harm: state files that are none, programs that cannot take over, peers that
// send rubbish, a full disk, a command line that is not the machine's. Each time the error names the thing, the guest
// runs on where it was, no fd leaks, and no file is left behind half-written.

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/driver/fault.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"
#include "tests/driver/programs.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(30);

size_t CountFds(pid_t pid) {
  std::error_code ignored;
  const std::filesystem::directory_iterator begin(absl::StrCat("/proc/", pid, "/fd"), ignored);
  return static_cast<size_t>(std::distance(begin, std::filesystem::directory_iterator()));
}

size_t CountFiles(const std::string& folder) {
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const std::string& path, absl::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

class BadInput : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    ::prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL);
    CPR_ASSERT_OK_AND_ASSIGN(rig_, GuestRig::Start({}));
  }
  Vmm& vmm() { return rig_->vmm(); }

  void ExpectGuestRunsOn() {
    EXPECT_THAT(vmm().qmp().AwaitStatus("running", kTimeout), IsOk());
    EXPECT_THAT(rig_->view().AwaitBeats(kTimeout), IsOk());
    EXPECT_THAT(rig_->view().Verify(kTimeout), IsOk());
  }

  // Has `attempt` fail several times, each time with an error that has `words`; the guest runs on in the same process,
  // which has as many fds afterwards as after the first attempt.
  void ExpectFails(const std::string& words, const std::function<absl::Status()>& attempt) {
    const pid_t pid = vmm().process().pid();
    size_t fds = 0;
    for (int i = 0; i < 3; ++i) {
      const absl::Status status = attempt();
      EXPECT_FALSE(status.ok());
      EXPECT_THAT(std::string(status.message()), HasSubstr(words));
      ExpectGuestRunsOn();
      ASSERT_EQ(PeerPid(vmm().qmp().fd()), pid);
      if (i == 0) fds = CountFds(pid);
      EXPECT_EQ(CountFds(pid), fds) << "attempt " << i;
    }
  }

  absl::Status Exec(const std::vector<std::string>& command, const std::string& uri = "memfd:") {
    if (const absl::Status set = vmm().SetMode(Mode::kExec); !set.ok()) return set;
    if (const absl::Status set = vmm().SetExecCommand(command); !set.ok()) return set;
    if (const absl::Status begun = vmm().Migrate(uri); !begun.ok()) return begun;
    return vmm().AwaitExec(kTimeout);
  }

  absl::Status Transfer(const std::string& cpr_path) {
    if (const absl::Status set = vmm().SetMode(Mode::kTransfer); !set.ok()) return set;
    const std::string main_uri = absl::StrCat("unix:", rig_->File("main"));
    if (const absl::Status begun = vmm().MigrateChannels(main_uri, cpr_path); !begun.ok()) return begun;
    return vmm().qmp().AwaitMigration(kTimeout);
  }

  absl::Status Save(const std::string& path) {
    if (const absl::Status set = vmm().SetMode(Mode::kReboot); !set.ok()) return set;
    if (const absl::Status set = vmm().SetIgnoreShared(); !set.ok()) return set;
    if (const absl::Status begun = vmm().Migrate(absl::StrCat("file:", path)); !begun.ok()) return begun;
    return vmm().qmp().AwaitMigration(kTimeout);
  }

  std::unique_ptr<GuestRig> rig_;
};

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
    return Exec({"/no/such/vmm", "-incoming", "memfd:"}, absl::StrCat("file:", path));
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
  CPR_ASSERT_OK_AND_ASSIGN(const std::string faulty, FindBuilt("tests/driver/cpr-vmm-faulty"));
  // A program that took its guest by cpr-exec is what to compare with.
  ASSERT_THAT(rig_->HandOver(Mode::kExec), IsOk());
  const size_t fds_before = CountFds(vmm().process().pid());
  std::vector<std::string> command = FaultPrefix(GetParam().phase, GetParam().action);
  const std::vector<std::string> words = rig_->ExecCommand("memfd:");
  command.push_back(faulty);
  command.insert(command.end(), words.begin() + 1, words.end());
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

// --- the peer of cpr-transfer

TEST_F(BadInput, TransferToNobody) {
  const std::string path = rig_->File("nobody");
  ExpectFails(path, [&] { return Transfer(path); });
}

// Listens as a new VMM would, and does `serve` with the VMM that connects.
absl::Status ServeOne(PacketSocket& listener, const std::function<void(PacketSocket&)>& serve) {
  const absl::Status ready = WaitReadable(listener.fd(), absl::Now() + kTimeout);
  if (!ready.ok()) return ready;
  absl::StatusOr<PacketSocket> socket = listener.Accept();
  if (!socket.ok()) return socket.status();
  serve(*socket);
  return absl::OkStatus();
}

class BadPeer : public BadInput {
 protected:
  // A transfer to a peer that does `serve` instead of a handshake.
  absl::Status TransferTo(const std::function<void(PacketSocket&)>& serve) {
    const std::string path = rig_->NextName("cpr");
    absl::StatusOr<PacketSocket> listener = PacketSocket::Listen(path);
    if (!listener.ok()) return listener.status();
    if (const absl::Status set = vmm().SetMode(Mode::kTransfer); !set.ok()) return set;
    const std::string main_uri = absl::StrCat("unix:", rig_->File("main"));
    if (const absl::Status begun = vmm().MigrateChannels(main_uri, path); !begun.ok()) return begun;
    if (const absl::Status served = ServeOne(*listener, serve); !served.ok()) return served;
    return vmm().qmp().AwaitMigration(kTimeout);
  }
};

TEST_F(BadPeer, HangsUpAtOnce) {
  ExpectFails("failed",
              [&] { return TransferTo([](PacketSocket& socket) { const PacketSocket closed = std::move(socket); }); });
}

TEST_F(BadPeer, SendsRubbish) {
  ExpectFails("failed", [&] {
    return TransferTo([](PacketSocket& socket) {
      EXPECT_THAT(socket.Send(std::string(4000, '\xee')), IsOk());
      WaitReadable(socket.fd(), absl::Now() + kTimeout).IgnoreError();
    });
  });
}

TEST_F(BadPeer, SendsFdsThatNobodyAskedFor) {
  ExpectFails("failed", [&] {
    return TransferTo([](PacketSocket& socket) {
      const std::vector<int> fds(PacketSocket::kMaxFds, 1);
      EXPECT_THAT(socket.Send("x", fds), IsOk());
      WaitReadable(socket.fd(), absl::Now() + kTimeout).IgnoreError();
    });
  });
}

// A waiting VMM is not put out by whoever else connects: the real peer comes after the rubbish.
TEST_F(BadInput, StrangersAtANewVmm) {
  const std::string cpr_path = rig_->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig_->NextName("main"));
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother(GuestRig::TransferWords(main_uri, cpr_path)));
  ASSERT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  const size_t fds = CountFds(next.process().pid());
  for (int i = 0; i < 3; ++i) {
    CPR_ASSERT_OK_AND_ASSIGN(PacketSocket stranger, PacketSocket::Connect(cpr_path));
    const std::vector<int> gifts(PacketSocket::kMaxFds, 1);
    EXPECT_THAT(stranger.Send(std::string(1000, '\x7f'), gifts), IsOk());
    EXPECT_THAT(WaitReadable(stranger.fd(), absl::Now() + kTimeout), IsOk()) << "it is told, or hung up on";
    EXPECT_THAT(next.RunState().value_or("gone"), "inmigrate");
  }
  ASSERT_THAT(vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(vmm().MigrateChannels(main_uri, cpr_path), IsOk());
  ASSERT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  EXPECT_THAT(vmm().qmp().AwaitStatus("postmigrate"), IsOk());
  rig_->Replace(std::move(next));
  ExpectGuestRunsOn();
  EXPECT_LT(CountFds(vmm().process().pid()), fds + PacketSocket::kMaxFds);
}

TEST_F(BadInput, TransferToAnotherMachine) {
  const std::string cpr_path = rig_->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig_->File("main"));
  std::vector<std::string> words = GuestRig::TransferWords(main_uri, cpr_path);
  words.insert(words.end(), {"-smp", "2"});
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother(words));
  ASSERT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  EXPECT_THAT(Transfer(cpr_path), StatusIs(absl::StatusCode::kAborted, HasSubstr("smp")));
  ExpectGuestRunsOn();
}

// --- the disk

TEST_F(BadInput, DiskFull) {
  const std::string disk = rig_->File("disk");
  ASSERT_TRUE(std::filesystem::create_directory(disk));
  // A mount namespace of the VMM's own; exec keeps the PID.
  const std::string script = absl::StrCat("mount -t tmpfs -o size=4k none ", disk, " && exec \"$@\"");
  absl::StatusOr<std::unique_ptr<GuestRig>> rig =
      GuestRig::Start({.prefix = {"unshare", "-m", "sh", "-c", script, "sh"}});
  ASSERT_THAT(rig, IsOk());
  rig_.swap(*rig);
  const std::string path = absl::StrCat(disk, "/vm.state");
  const std::string inside = absl::StrCat("/proc/", vmm().process().pid(), "/root", disk);
  ExpectFails(path, [&] { return Save(path); });
  EXPECT_EQ(CountFiles(inside), 0u) << "a partial file";
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
