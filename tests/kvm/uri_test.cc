// Handovers of real VMMs through commands, descriptors and parts of files: exec:, fd:, file:P,offset=N.

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"
#include "tests/driver/programs.h"
#include "tests/driver/terminal.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(20);

JsonValue UriOf(const std::string& uri) { return JsonMembers({{"uri", JsonText(uri)}}); }

// {"channels": [...]} with one main channel that is a command.
JsonValue CommandChannel(const std::vector<std::string>& words) {
  const JsonValue address = JsonMembers({{"transport", JsonText("exec")}, {"args", JsonTexts(words)}});
  return JsonMembers({{"channels", JsonList({JsonMembers({{"channel-type", JsonText("main")}, {"addr", address}})})}});
}

// getfd: the descriptor (lent) comes along with a byte that means nothing.
absl::Status GiveFd(QmpClient& qmp, int fd, const std::string& name) {
  char newline = '\n';
  iovec part = {&newline, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  if (::sendmsg(qmp.fd(), &message, MSG_NOSIGNAL) != 1) return absl::UnavailableError("sendmsg to the monitor");
  return qmp.Execute("getfd", JsonMembers({{"fdname", JsonText(name)}})).status();
}

// Words before a cpr-vmm that open descriptors for it: "9>file".
std::vector<std::string> Opening(const std::string& redirection) {
  return {"/bin/sh", "-c", absl::StrCat("exec ", redirection, "; exec \"$@\""), "sh"};
}

class Uri : public ::testing::Test {
 protected:
  void Boot(GuestRigOptions options = {}) {
    CPR_ASSERT_OK_AND_ASSIGN(rig_, GuestRig::Start(std::move(options)));
    ASSERT_THAT(rig_->vmm().SetMode(Mode::kReboot), IsOk());
    ASSERT_THAT(rig_->vmm().SetIgnoreShared(), IsOk());
  }
  absl::Status Save(const JsonValue& arguments) {
    absl::Status status = rig_->vmm().qmp().Execute("migrate", arguments).status();
    if (status.ok()) status = rig_->vmm().qmp().AwaitMigration();
    return status.ok() ? rig_->vmm().Quit().status() : status;
  }
  // The guest arrives in a VMM that waits with "-incoming defer" and is then given `arguments`.
  void ResumeDeferred(const JsonValue& arguments) {
    CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother({"-incoming", "defer"}));
    ASSERT_THAT(next.SetIgnoreShared(), IsOk());
    ASSERT_THAT(next.qmp().Execute("migrate-incoming", arguments), IsOk());
    ExpectRunsIn(std::move(next));
  }
  void Resume(const std::string& uri, const std::vector<std::string>& prefix = {}) {
    CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother({"-incoming", uri}, prefix));
    ExpectRunsIn(std::move(next));
  }
  void ExpectRunsIn(Vmm next) {
    EXPECT_THAT(next.qmp().AwaitStatus("running"), IsOk()) << next.Log();
    rig_->Replace(std::move(next));
    EXPECT_THAT(rig_->view().Verify(kTimeout), IsOk());
  }
  void ExpectRunsOn() {
    EXPECT_THAT(rig_->vmm().qmp().AwaitStatus("running"), IsOk());
    EXPECT_THAT(rig_->view().AwaitBeats(kTimeout), IsOk());
    EXPECT_THAT(rig_->view().Verify(kTimeout), IsOk());
  }
  std::unique_ptr<GuestRig> rig_;
};

TEST_F(Uri, StateThroughGzip) {
  CPR_SKIP_WITHOUT_KVM();
  Boot({.vcpus = 2});
  const std::string state = rig_->File("state.gz");
  ASSERT_THAT(Save(UriOf(absl::StrCat("exec:gzip -c > ", state))), IsOk());
  Resume(absl::StrCat("exec:gzip -dc ", state));
  // Once is enough.
  CPR_ASSERT_OK_AND_ASSIGN(Vmm again, rig_->StartAnother({"-incoming", "defer"}));
  ASSERT_THAT(again.SetIgnoreShared(), IsOk());
  ASSERT_THAT(again.qmp().Execute("migrate-incoming", UriOf(absl::StrCat("exec:gzip -dc ", state))), IsOk());
  EXPECT_THAT(again.qmp().AwaitMigration(),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("was resumed from this state already")));
  ExpectRunsOn();
}

TEST_F(Uri, StateThroughCommandsOfWords) {
  CPR_SKIP_WITHOUT_KVM();
  Boot();
  const std::string state = rig_->File("vm.state");
  ASSERT_THAT(Save(CommandChannel({"dd", absl::StrCat("of=", state), "status=none"})), IsOk());
  ResumeDeferred(CommandChannel({"cat", state}));
}

TEST_F(Uri, RamGoesThroughTheCommandToo) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(rig_, GuestRig::Start({.ram_mib = 256}));
  ASSERT_THAT(rig_->vmm().SetMode(Mode::kReboot), IsOk());
  const std::string state = rig_->File("state.gz");
  ASSERT_THAT(Save(UriOf(absl::StrCat("exec:gzip -1c > ", state))), IsOk());
  Resume(absl::StrCat("exec:gzip -dc ", state));
}

TEST_F(Uri, RamThatIsCopiedIsToldOfOnBothSides) {
  CPR_SKIP_WITHOUT_KVM();
  const auto expect_all_copied = [](Vmm& vmm) {
    CPR_ASSERT_OK_AND_ASSIGN(const JsonValue migration, vmm.qmp().Execute("query-migrate"));
    EXPECT_EQ(JsonMemberText(migration, "status"), "completed");
    const JsonValue* ram = JsonMember(migration, "ram");
    ASSERT_NE(ram, nullptr);
    EXPECT_GE(JsonMemberInteger(*ram, "transferred"), 256 << 20);
    EXPECT_EQ(JsonMemberInteger(*ram, "transferred"), JsonMemberInteger(*ram, "total"));
    EXPECT_EQ(JsonMemberInteger(*ram, "remaining"), 0);
    EXPECT_EQ(JsonMemberInteger(*ram, "in-place"), 0);
  };
  CPR_ASSERT_OK_AND_ASSIGN(rig_, GuestRig::Start({.vcpus = 2, .ram_mib = 256, .guest_words = "quiet touch=64"}));
  ASSERT_THAT(rig_->vmm().SetMode(Mode::kReboot), IsOk());
  const std::string uri = absl::StrCat("file:", rig_->File("vm.state"));
  ASSERT_THAT(rig_->vmm().Migrate(uri), IsOk());
  ASSERT_THAT(rig_->vmm().qmp().AwaitMigration(), IsOk());
  ASSERT_NO_FATAL_FAILURE(expect_all_copied(rig_->vmm()));
  ASSERT_THAT(rig_->vmm().Quit(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother({"-incoming", "defer"}));
  ASSERT_THAT(next.qmp().Execute("migrate-incoming", UriOf(uri)), IsOk());
  EXPECT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  ASSERT_NO_FATAL_FAILURE(expect_all_copied(next));
  ExpectRunsIn(std::move(next));
}

TEST_F(Uri, CommandThatFailsSaysWhyAndTheGuestRunsOn) {
  CPR_SKIP_WITHOUT_KVM();
  Boot();
  EXPECT_THAT(Save(UriOf("exec:cat > /dev/null; echo the disk is full >&2; exit 7")),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("exit status 7: the disk is full")));
  ExpectRunsOn();
  EXPECT_THAT(Save(UriOf("exec:true")),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("before it had read the whole state")));
  ExpectRunsOn();
}

TEST_F(Uri, CommandThatNeverEndsIsCancelled) {
  CPR_SKIP_WITHOUT_KVM();
  Boot();
  const std::string state = rig_->File("vm.state");
  ASSERT_THAT(rig_->vmm().Migrate(absl::StrCat("exec:cat > ", state, "; sleep 1000")), IsOk());
  EXPECT_THAT(rig_->vmm().qmp().AwaitStatus("finish-migrate"), IsOk());
  ASSERT_THAT(rig_->vmm().qmp().Execute("migrate_cancel"), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const JsonValue migration, rig_->vmm().qmp().Execute("query-migrate"));
  EXPECT_EQ(JsonMemberText(migration, "status"), "cancelled");
  ExpectRunsOn();
}

TEST_F(Uri, IncomingCommandThatNeverEndsIsCancelledAndAnotherTried) {
  CPR_SKIP_WITHOUT_KVM();
  Boot();
  const std::string state = rig_->File("vm.state");
  ASSERT_THAT(Save(UriOf(absl::StrCat("exec:cat > ", state))), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother({"-incoming", "defer"}));
  ASSERT_THAT(next.SetIgnoreShared(), IsOk());
  ASSERT_THAT(next.qmp().Execute("migrate-incoming", UriOf("exec:sleep 1000")), IsOk());
  ASSERT_THAT(next.qmp().Execute("migrate_cancel"), IsOk());
  EXPECT_THAT(next.qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("cancelled")));
  ASSERT_THAT(next.qmp().Execute("migrate-incoming", UriOf(absl::StrCat("exec:cat ", state))), IsOk());
  ExpectRunsIn(std::move(next));
}

TEST_F(Uri, StateAsTypedAtTheMonitor) {
  CPR_SKIP_WITHOUT_KVM();
  Boot();
  ASSERT_THAT(rig_->vmm().Quit(), IsOk());
  const std::string state = rig_->File("state.gz");
  const auto command = [this](const std::vector<std::string>& more) {
    std::vector<std::string> words = {FindBuilt("vmm/cpr-vmm").value()};
    for (const std::string& word : rig_->Words(rig_->NextName("qmp"))) words.push_back(word);
    words.insert(words.end(), {"-monitor", "stdio"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  CPR_ASSERT_OK_AND_ASSIGN(Terminal old, Terminal::StartOnPipes(command({}), rig_->File("old.log")));
  ASSERT_THAT(old.ReadToPrompt(), IsOk());
  ASSERT_THAT(rig_->view().AwaitRunning(absl::Seconds(60)), IsOk());
  ASSERT_THAT(old.Ask("migrate_set_parameter mode cpr-reboot"), IsOk());
  ASSERT_THAT(old.Ask("migrate_set_capability x-ignore-shared on"), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const std::string powerdown, old.Ask("system_powerdown"));
  EXPECT_THAT(powerdown, ::testing::Not(HasSubstr("Error")));
  ASSERT_THAT(old.Ask(absl::StrCat("migrate \"exec:gzip -c > ", state, "\"")), IsOk());
  EXPECT_THAT(old.AskUntil("info status", "VM status: paused (postmigrate)\n"), IsOk());
  ASSERT_THAT(old.Type("quit"), IsOk());
  EXPECT_EQ(old.process().Wait(kTimeout).value_or(-1), 0);
  Resume(absl::StrCat("exec:gzip -dc ", state));
}

TEST_F(Uri, StateThroughGivenDescriptors) {
  CPR_SKIP_WITHOUT_KVM();
  Boot();
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read(fds[0]), write(fds[1]);
  ASSERT_THAT(GiveFd(rig_->vmm().qmp(), write.get(), "out"), IsOk());
  write.Reset();
  ASSERT_THAT(Save(UriOf("fd:out")), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother({"-incoming", "defer"}));
  ASSERT_THAT(next.SetIgnoreShared(), IsOk());
  ASSERT_THAT(GiveFd(next.qmp(), read.get(), "in"), IsOk());
  EXPECT_THAT(next.qmp().Execute("migrate-incoming", UriOf("fd:out")),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("File descriptor named 'out' has not been found")));
  ASSERT_THAT(next.qmp().Execute("migrate-incoming", UriOf("fd:in")), IsOk());
  ExpectRunsIn(std::move(next));
}

TEST_F(Uri, StateThroughInheritedDescriptors) {
  CPR_SKIP_WITHOUT_KVM();
  const testing::TempFolder folder;
  const std::string state = folder.File("vm.state");
  Boot({.prefix = Opening(absl::StrCat("9>", state))});
  ASSERT_THAT(Save(UriOf("fd:9")), IsOk());
  Resume("fd:8", Opening(absl::StrCat("8<", state)));
}

TEST_F(Uri, MainChannelOfTransferThroughGivenDescriptors) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(rig_, GuestRig::Start({.vcpus = 2}));
  int pair[2];
  for (const bool socket : {true, false}) {
    SCOPED_TRACE(socket ? "socket" : "pipe");
    const std::string cpr_path = rig_->NextName("cpr");
    ASSERT_EQ(socket ? ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) : ::pipe2(pair, O_CLOEXEC), 0);
    const UniqueFd in(pair[0]), out(pair[1]);
    CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig_->StartAnother(GuestRig::TransferWords("defer", cpr_path)));
    ASSERT_THAT(GiveFd(next.qmp(), in.get(), "main"), IsOk());
    ASSERT_THAT(next.qmp().Execute("migrate-incoming", UriOf("fd:main")), IsOk());
    ASSERT_THAT(rig_->vmm().SetMode(Mode::kTransfer), IsOk());
    ASSERT_THAT(GiveFd(rig_->vmm().qmp(), out.get(), "main"), IsOk());
    const JsonValue cpr_address =
        JsonMembers({{"transport", JsonText("socket")}, {"type", JsonText("unix")}, {"path", JsonText(cpr_path)}});
    const JsonValue main_address =
        JsonMembers({{"transport", JsonText("socket")}, {"type", JsonText("fd")}, {"str", JsonText("main")}});
    const JsonValue channels = JsonList({JsonMembers({{"channel-type", JsonText("main")}, {"addr", main_address}}),
                                         JsonMembers({{"channel-type", JsonText("cpr")}, {"addr", cpr_address}})});
    ASSERT_THAT(rig_->vmm().qmp().Execute("migrate", JsonMembers({{"channels", channels}})), IsOk());
    EXPECT_THAT(rig_->vmm().qmp().AwaitStatus("postmigrate"), IsOk());
    ExpectRunsIn(std::move(next));
  }
}

TEST_F(Uri, StateAtAnOffset) {
  CPR_SKIP_WITHOUT_KVM();
  Boot();
  const std::string path = rig_->File("container");
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd file, OpenFile(path, O_RDWR | O_CREAT));
  ASSERT_THAT(WriteAll(file.get(), std::string(4096, 'h')), IsOk());
  const std::string uri = absl::StrCat("file:", path, ",offset=4096");
  ASSERT_THAT(Save(UriOf(uri)), IsOk());
  ResumeDeferred(UriOf(uri));
  std::string before(4096, '\0');
  ASSERT_THAT(PreadAll(file.get(), before.data(), before.size(), 0), IsOk());
  EXPECT_EQ(before, std::string(4096, 'h'));
}

}  // namespace
}  // namespace cpr
