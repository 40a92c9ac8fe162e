// Whole handovers between cpr-vmm processes, driven as users drive them: QMP with QEMU's words, and lines typed at the
// human monitor. What counts as success is what the guest says and what can be seen from outside.

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "tests/driver/fault.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"
#include "tests/driver/programs.h"
#include "tests/driver/terminal.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::testing::HasSubstr;

constexpr Mode kModes[] = {Mode::kTransfer, Mode::kExec, Mode::kReboot};
constexpr absl::Duration kTimeout = absl::Seconds(20);

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

struct Shape {
  int vcpus;
  bool kernel_irqchip;
  std::string name;
};

class EveryMode : public ::testing::TestWithParam<Shape> {};

TEST_P(EveryMode, GuestLosesNothing) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig,
                           GuestRig::Start({.vcpus = GetParam().vcpus, .kernel_irqchip = GetParam().kernel_irqchip}));
  for (int round = 0; round < 3; ++round) {
    for (const Mode mode : kModes) {
      SCOPED_TRACE(absl::StrCat(ModeName(mode), ", round ", round));
      CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig->HandOver(mode));
      EXPECT_THAT(handover.verdict, IsOk());
      EXPECT_EQ(handover.pid_before == handover.pid_after, mode == Mode::kExec);
      EXPECT_GT(handover.phases_ns[static_cast<int>(Phase::kSave)], 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, EveryMode,
                         ::testing::Values(Shape{1, false, "Vcpus1Split"}, Shape{2, false, "Vcpus2Split"},
                                           Shape{4, false, "Vcpus4Split"}, Shape{1, true, "Vcpus1Kernel"},
                                           Shape{2, true, "Vcpus2Kernel"}, Shape{4, true, "Vcpus4Kernel"}),
                         [](const auto& info) { return info.param.name; });

// A guest that is not told takes a long gap, as over a reboot, for a lockup.
TEST(GuestClock, EveryVcpuIsToldThatItWasStopped) {
  CPR_SKIP_WITHOUT_KVM();
  constexpr int kVcpus = 2;
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({.vcpus = kVcpus, .ram_mib = 64}));
  for (const Mode mode : kModes) {
    std::vector<uint64_t> told;
    for (int i = 0; i < kVcpus; ++i) told.push_back(uint64_t{rig->view().abi().vcpu[i].clock_stopped_seen});
    CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig->HandOver(mode));
    EXPECT_THAT(handover.verdict, IsOk());
    for (int i = 0; i < kVcpus; ++i) {
      EXPECT_GT(rig->view().abi().vcpu[i].clock_stopped_seen, told[i]) << ModeName(mode) << ", vCPU " << i;
    }
  }
}

// What a process has open, by what it is: "anon_inode:kvm-vm".
std::multiset<std::string> OpenFiles(pid_t pid) {
  std::multiset<std::string> files;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ignored)) {
    std::string file = std::filesystem::read_symlink(entry.path(), ignored).string();
    // Sockets have their inode's number in their name; each VMM has a log of its own.
    files.insert(absl::StartsWith(file, "socket:") ? "socket" : absl::EndsWith(file, ".log") ? "log" : file);
  }
  return files;
}

// A VMM that a guest has come to has nothing open that one that booted it has not.
TEST(OpenFds, AreThoseOfABootedVmmAfterManyHandovers) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({.ram_mib = 64}));
  const std::multiset<std::string> booted = OpenFiles(rig->vmm().process().pid());
  for (const Mode mode : kModes) {
    for (int i = 0; i < 20; ++i) {
      SCOPED_TRACE(absl::StrCat(ModeName(mode), " ", i));
      CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig->HandOver(mode));
      EXPECT_THAT(handover.verdict, IsOk());
      // The keeper of a cpr-exec is waited for by a pidfd until it has freed the old memory.
      const absl::Time deadline = absl::Now() + kTimeout;
      while (OpenFiles(handover.pid_after) != booted && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
      ASSERT_THAT(OpenFiles(handover.pid_after), ::testing::ContainerEq(booted));
    }
  }
}

// Writes into `pipe` (non-blocking) until it takes no more.
void FillPipe(int pipe) {
  const std::string page(4096, '#');
  while (::write(pipe, page.data(), page.size()) > 0) continue;
  while (::write(pipe, page.data(), 1) > 0) continue;
}

std::string DrainPipe(int pipe) {
  std::string text;
  char data[4096];
  for (ssize_t n; (n = ::read(pipe, data, sizeof(data))) > 0;) text.append(data, static_cast<size_t>(n));
  return text;
}

size_t Count(const std::string& text, const std::string& words) {
  size_t count = 0;
  for (size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++count;
  return count;
}

// What the guest has said and nobody has read lies in the state; the old VMM, which lives on beside it, ends without a
// word.
TEST(Serial, UnreadOutputComesOnceOverAReboot) {
  CPR_SKIP_WITHOUT_KVM();
  const testing::TempFolder folder;
  const std::string fifo = folder.File("serial");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd pipe, OpenFile(fifo, O_RDWR | O_NONBLOCK));
  FillPipe(pipe.get());
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig,
                           GuestRig::Start({.serial = absl::StrCat("file:", fifo)}));
  ASSERT_THAT(rig->vmm().SetMode(Mode::kReboot), IsOk());
  ASSERT_THAT(rig->vmm().SetIgnoreShared(), IsOk());
  const std::string state = absl::StrCat("file:", rig->File("vm.state"));
  ASSERT_THAT(rig->vmm().Migrate(state), IsOk());
  ASSERT_THAT(rig->vmm().qmp().AwaitStatus("postmigrate"), IsOk());
  EXPECT_EQ(Count(DrainPipe(pipe.get()), "booting"), 0u);
  ASSERT_THAT(rig->vmm().Quit(), IsOk());
  EXPECT_EQ(DrainPipe(pipe.get()), "") << "the old VMM wrote what it had saved";
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig->StartAnother({"-incoming", state}));
  ASSERT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  rig->Replace(std::move(next));
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
  ASSERT_THAT(rig->vmm().Quit(), IsOk());
  const std::string text = DrainPipe(pipe.get());
  EXPECT_EQ(Count(text, "booting"), 1u) << text;
  EXPECT_EQ(Count(text, "running, "), 1u) << text;
}

// The words that a script for QEMU uses, down to the order, and its way to wait.
TEST(QemuScript, TransferOverTcp) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  const std::string cpr_path = rig->NextName("cpr");
  // A port that was free a moment ago; the test runs alone.
  constexpr char kMain[] = "tcp:127.0.0.1:44444";
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig->StartAnother(GuestRig::TransferWords(kMain, cpr_path)));
  EXPECT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  EXPECT_THAT(rig->vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(rig->vmm().MigrateChannels(kMain, cpr_path), IsOk());
  EXPECT_THAT(rig->vmm().qmp().AwaitStatus("postmigrate"), IsOk());
  EXPECT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  EXPECT_THAT(rig->vmm().qmp().AwaitEvent("STOP"), IsOk());
  EXPECT_THAT(next.qmp().AwaitEvent("RESUME"), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const JsonValue migration, rig->vmm().qmp().Execute("query-migrate"));
  EXPECT_EQ(JsonMemberText(migration, "status"), "completed");
  EXPECT_NE(JsonMember(migration, "downtime"), nullptr);
  Vmm before = rig->Replace(std::move(next));
  CPR_ASSERT_OK_AND_ASSIGN(const int exit_code, before.Quit());
  EXPECT_EQ(exit_code, 0);
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

// The new VMM is told where the state comes from only after the old one was told to send it.
TEST(QemuScript, TransferDeferred) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  const std::string cpr_path = rig->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig->NextName("main"));
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig->StartAnother(GuestRig::TransferWords("defer", cpr_path)));
  EXPECT_THAT(rig->vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(rig->vmm().MigrateChannels(main_uri, cpr_path), IsOk());
  EXPECT_THAT(rig->view().AwaitBeats(kTimeout), IsOk()) << "the guest runs while the new VMM waits for its user";
  const JsonValue uri = JsonMembers({{"uri", JsonText(main_uri)}});
  EXPECT_THAT(next.qmp().Execute("migrate-incoming", uri), IsOk());
  EXPECT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  EXPECT_THAT(rig->vmm().qmp().AwaitStatus("postmigrate"), IsOk());
  rig->Replace(std::move(next));
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

TEST(QemuScript, ExecWithStateInFile) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  const std::string uri = absl::StrCat("file:", rig->File("exec.state"));
  EXPECT_THAT(rig->vmm().SetMode(Mode::kExec), IsOk());
  std::vector<std::string> command = {"/usr/bin/env"};  // a prefix command that execs the program
  for (const std::string& word : rig->ExecCommand(uri)) command.push_back(word);
  EXPECT_THAT(rig->vmm().SetExecCommand(command), IsOk());
  const pid_t pid = rig->vmm().process().pid();
  ASSERT_THAT(rig->vmm().Migrate(uri), IsOk());
  ASSERT_THAT(rig->vmm().AwaitExec(), IsOk());
  EXPECT_THAT(rig->vmm().qmp().AwaitStatus("running"), IsOk());
  EXPECT_EQ(PeerPid(rig->vmm().qmp().fd()), pid);
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

// A guest that its user has stopped is not started by a handover.
TEST(RunState, PausedGuestStaysPaused) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({.vcpus = 2}));
  for (const Mode mode : kModes) {
    SCOPED_TRACE(ModeName(mode));
    ASSERT_THAT(rig->vmm().qmp().Execute("stop"), IsOk());
    const uint64_t beats = rig->view().beats();
    ASSERT_THAT(rig->HandOver(mode), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(const std::string state, rig->vmm().RunState());
    EXPECT_EQ(state, "paused");
    EXPECT_EQ(rig->view().beats(), beats);
    ASSERT_THAT(rig->vmm().qmp().Execute("cont"), IsOk());
    EXPECT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
    EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
  }
}

// In the new VMM it runs for some time before that is told to anybody.
TEST(RunState, GuestThatResetsItselfAsItArrivesStartsAnew) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::string faulty, FindBuilt("tests/driver/cpr-vmm-faulty"));
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({.vmm = faulty}));
  const std::string cpr_path = rig->NextName("cpr");
  const std::string main_uri = absl::StrCat("unix:", rig->NextName("main"));
  CPR_ASSERT_OK_AND_ASSIGN(
      Vmm next, rig->StartAnother(GuestRig::TransferWords(main_uri, cpr_path), FaultPrefix(Phase::kResume, "stop")));
  ASSERT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  ASSERT_THAT(rig->vmm().SetMode(Mode::kTransfer), IsOk());
  ASSERT_THAT(rig->vmm().MigrateChannels(main_uri, cpr_path), IsOk());
  ASSERT_THAT(AwaitStopped(next.process().pid(), kTimeout), IsOk());
  // Wherever it stands in its code, it comes to the end of this: mov dx, 0xcf9; mov al, 6; out dx, al.
  constexpr off_t kCode = 0x100000;  // tests/guest/guest.lds
  const std::string reset = std::string(0x8000 - 7, '\x90') + "\x66\xba\xf9\x0c\xb0\x06\xee";
  const UniqueFd ram(::open(rig->ram_path().c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::pwrite(ram.get(), reset.data(), reset.size(), kCode), static_cast<ssize_t>(reset.size()));
  rig->view().abi().state = CPR_GUEST_BOOTING;
  next.process().Signal(SIGCONT);
  EXPECT_THAT(next.qmp().AwaitStatus("running", kTimeout), IsOk()) << next.Log();
  rig->Replace(std::move(next));
  EXPECT_THAT(rig->view().AwaitRunning(kTimeout), IsOk());
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

TEST(SerialPort, FileIsContinued) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({.guest_words = ""}));
  for (const Mode mode : kModes) ASSERT_THAT(rig->HandOver(mode), IsOk());
  // The guest answers the doorbell first and prints after that.
  std::string text;
  const absl::Time deadline = absl::Now() + kTimeout;
  while (!absl::StrContains(text, "verify 3: OK") && absl::Now() < deadline) text = ReadFile(rig->File("serial.log"));
  const std::vector<std::string> parts = absl::StrSplit(text, "cpr-guest: booting");
  EXPECT_EQ(parts.size(), 2u) << "the guest booted once: " << text;
  EXPECT_THAT(text, HasSubstr("cpr-guest: verify 3: OK"));
}

// Types `character` and waits until the guest says that it got it; what it had to say before may come first.
absl::Status Converse(int socket, char character) {
  if (::send(socket, &character, 1, MSG_NOSIGNAL) != 1) return absl::UnavailableError("serial socket: send");
  const std::string wanted = absl::StrCat("typed '", std::string(1, character), "'");
  std::string text;
  while (!absl::StrContains(text, wanted)) {
    const absl::Status ready = WaitReadable(socket, absl::Now() + kTimeout);
    if (!ready.ok()) return absl::DeadlineExceededError(text);
    char bytes[512];
    const ssize_t n = ::recv(socket, bytes, sizeof(bytes), 0);
    if (n <= 0) return absl::UnavailableError("serial socket: hung up");
    text.append(bytes, static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

TEST(SerialPort, SocketClientStaysConnected) {
  CPR_SKIP_WITHOUT_KVM();
  const testing::TempFolder folder;
  const std::string path = folder.File("serial");
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig,
                           GuestRig::Start({.serial = absl::StrCat("unix:", path, ",server=on,wait=off")}));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd client, ConnectUnixStream(path));
  char character = 'a';
  ASSERT_THAT(Converse(client.get(), character), IsOk());
  for (const Mode mode : {Mode::kTransfer, Mode::kExec, Mode::kTransfer, Mode::kExec}) {
    SCOPED_TRACE(ModeName(mode));
    ASSERT_THAT(rig->HandOver(mode), IsOk());
    EXPECT_THAT(Converse(client.get(), ++character), IsOk());
  }
}

// The words of `rig`'s VMM with the human monitor on stdio.
std::vector<std::string> MonitorCommand(GuestRig& rig, const std::vector<std::string>& more = {}) {
  std::vector<std::string> command = {FindBuilt("vmm/cpr-vmm").value()};
  for (const std::string& word : rig.Words(rig.NextName("qmp"))) command.push_back(word);
  command.insert(command.end(), {"-monitor", "stdio"});
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

void ExpectAnswer(Terminal& terminal, absl::string_view line, const std::string& answer) {
  const absl::StatusOr<std::string> text = terminal.Ask(line);
  ASSERT_THAT(text, IsOk()) << line;
  EXPECT_EQ(*text, answer) << line;
}

// The transcript of cpr-reboot, typed line by line.
TEST(HumanMonitor, RebootAsTyped) {
  CPR_SKIP_WITHOUT_KVM();
  // The rig's own VMM makes the folder and the RAM file, and is then out of the way.
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  ASSERT_THAT(rig->vmm().Quit(), IsOk());
  const std::string state = rig->File("vm.state");
  CPR_ASSERT_OK_AND_ASSIGN(Terminal old, Terminal::StartOnPipes(MonitorCommand(*rig), rig->File("old.log")));
  ASSERT_THAT(old.ReadToPrompt(), IsOk());
  ExpectAnswer(old, "info status", "VM status: running\n");
  ASSERT_THAT(rig->view().AwaitRunning(absl::Seconds(60)), IsOk());
  ASSERT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
  ExpectAnswer(old, "migrate_set_parameter mode cpr-reboot", "");
  ExpectAnswer(old, "migrate_set_capability x-ignore-shared on", "");
  ExpectAnswer(old, absl::StrCat("migrate -d file:", state), "");
  EXPECT_THAT(old.AskUntil("info status", "VM status: paused (postmigrate)\n"), IsOk());
  ASSERT_THAT(old.Type("quit"), IsOk());
  EXPECT_EQ(old.process().Wait(kTimeout).value_or(-1), 0);

  CPR_ASSERT_OK_AND_ASSIGN(Terminal next,
                           Terminal::StartOnPipes(MonitorCommand(*rig, {"-incoming", "defer"}), rig->File("new.log")));
  ASSERT_THAT(next.ReadToPrompt(), IsOk());
  ExpectAnswer(next, "info status", "VM status: paused (inmigrate)\n");
  ExpectAnswer(next, "migrate_set_parameter mode cpr-reboot", "");
  ExpectAnswer(next, "migrate_set_capability x-ignore-shared on", "");
  ExpectAnswer(next, absl::StrCat("migrate_incoming file:", state), "");
  EXPECT_THAT(next.AskUntil("info status", "VM status: running\n"), IsOk());
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

TEST(HumanMonitor, ExecAsTypedOnATerminal) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  ASSERT_THAT(rig->vmm().Quit(), IsOk());
  const std::vector<std::string> command = MonitorCommand(*rig);
  CPR_ASSERT_OK_AND_ASSIGN(Terminal terminal, Terminal::StartOnPty(command));
  ASSERT_THAT(terminal.ReadToPrompt(), IsOk());
  ASSERT_THAT(rig->view().AwaitRunning(absl::Seconds(60)), IsOk());
  ASSERT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
  const pid_t pid = terminal.process().pid();
  ASSERT_THAT(terminal.Ask("migrate_set_parameter mode cpr-exec"), IsOk());
  std::string words;
  for (const std::string& word : command) {
    absl::StrAppend(&words, " ", absl::StrContains(word, " ") ? absl::StrCat("\"", word, "\"") : word);
  }
  ASSERT_THAT(terminal.Ask(absl::StrCat("migrate_set_parameter cpr-exec-args", words, " -incoming memfd:")), IsOk());
  ASSERT_THAT(terminal.Type("migrate -d memfd:"), IsOk());
  // The new program greets on the same terminal.
  absl::StatusOr<std::string> text = terminal.ReadToPrompt();
  while (text.ok() && !absl::StrContains(*text, "type 'help' for more information")) text = terminal.ReadToPrompt();
  ASSERT_THAT(text, IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const std::string status, terminal.Ask("info status"));
  EXPECT_THAT(status, HasSubstr("VM status: running"));
  EXPECT_EQ(terminal.process().pid(), pid);
  EXPECT_TRUE(terminal.process().Alive());
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

}  // namespace
}  // namespace cpr
