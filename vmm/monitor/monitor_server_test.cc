#include "vmm/monitor/monitor_server.h"

#include <fcntl.h>
#include <pty.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/matchers.h"
#include "vmm/monitor/fake_target.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Protocol = MonitorOptions::Protocol;

class MonitorServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_ASSERT_OK_AND_ASSIGN(loop_, EventLoop::Create());
    char folder[] = "/tmp/monitor_test.XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/qmp";
  }
  void TearDown() override {
    server_.reset();
    loop_.reset();
    std::filesystem::remove_all(folder_);
  }

  void ServeSocket(Protocol protocol) {
    const MonitorOptions options{protocol, {.kind = ChardevConfig::Kind::kSocket, .path = path_, .server = true}};
    CPR_ASSERT_OK_AND_ASSIGN(server_, MonitorServer::Create({options}, &target_, loop_.get()));
  }
  void ServeStdio(Protocol protocol, int in, int out) {
    const MonitorOptions options{protocol, {.kind = ChardevConfig::Kind::kStdio}};
    CPR_ASSERT_OK_AND_ASSIGN(server_, MonitorServer::Create({options}, &target_, loop_.get(), in, out));
  }
  UniqueFd Connect() {
    auto client = ConnectUnixStream(path_);
    EXPECT_THAT(client, IsOk());
    return client.ok() ? *std::move(client) : UniqueFd();
  }
  // Runs the loop until `fd`, which does not block, has given a text that ends with `end`.
  std::string ReadUntil(int fd, const std::string& end) {
    std::string text;
    for (int idle = 0; idle < 100 && !absl::EndsWith(text, end);) {
      const bool busy = loop_->RunOnce(absl::Milliseconds(10));
      char buffer[4096];
      const ssize_t n = ::read(fd, buffer, sizeof(buffer));
      if (n > 0) text.append(buffer, static_cast<size_t>(n));
      idle += busy || n > 0 ? 0 : 1;
    }
    EXPECT_THAT(text, EndsWith(end));
    return text;
  }
  void Settle() {
    while (loop_->RunOnce(absl::ZeroDuration())) {
    }
  }

  FakeTarget target_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<MonitorServer> server_;
  std::string folder_;
  std::string path_;
};

constexpr char kCapabilities[] = "{\"execute\":\"qmp_capabilities\"}";

TEST_F(MonitorServerTest, ServesOneQmpClientAfterTheOther) {
  ServeSocket(Protocol::kQmp);
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  for (int i = 0; i < 3; ++i) {
    const UniqueFd client = Connect();
    EXPECT_THAT(ReadUntil(client.get(), "\r\n"), StartsWith("{\"QMP\": "));
    ASSERT_THAT(WriteAll(client.get(), kCapabilities), IsOk());
    EXPECT_EQ(ReadUntil(client.get(), "\r\n"), "{\"return\": {}}\r\n");
  }
  server_.reset();
  EXPECT_NE(::stat(path_.c_str(), &info), 0) << "the socket's file stays behind";
}

TEST_F(MonitorServerTest, ASecondClientWaitsForTheFirstToLeave) {
  ServeSocket(Protocol::kQmp);
  UniqueFd first = Connect();
  ReadUntil(first.get(), "\r\n");
  const UniqueFd second = Connect();
  Settle();
  char byte;
  EXPECT_EQ(::read(second.get(), &byte, 1), -1) << "greeted beside another client";
  EXPECT_EQ(server_->Chardevs()[0].filename, "unix:" + path_ + ",server=on");
  first.Reset();
  EXPECT_THAT(ReadUntil(second.get(), "\r\n"), StartsWith("{\"QMP\": "));
}

TEST_F(MonitorServerTest, BroadcastsEvents) {
  ServeSocket(Protocol::kQmp);
  server_->Broadcast({.kind = MonitorEvent::Kind::kStop});  // to nobody
  const UniqueFd client = Connect();
  ASSERT_THAT(WriteAll(client.get(), kCapabilities), IsOk());
  ReadUntil(client.get(), "{\"return\": {}}\r\n");
  server_->Broadcast({.kind = MonitorEvent::Kind::kStop});
  EXPECT_THAT(ReadUntil(client.get(), "}}\r\n"), StartsWith("{\"event\": \"STOP\""));
}

TEST_F(MonitorServerTest, GetfdTakesADescriptorFromTheSocket) {
  ServeSocket(Protocol::kQmp);
  const UniqueFd client = Connect();
  ASSERT_THAT(WriteAll(client.get(), kCapabilities), IsOk());
  ReadUntil(client.get(), "{\"return\": {}}\r\n");
  const UniqueFd memfd(::memfd_create("sent", MFD_CLOEXEC));
  std::string request = R"({"execute":"getfd","arguments":{"fdname":"state"}})";
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part = {request.data(), request.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = memfd.get();
  std::memcpy(CMSG_DATA(header), &number, sizeof(int));
  ASSERT_GT(::sendmsg(client.get(), &message, 0), 0);
  EXPECT_EQ(ReadUntil(client.get(), "\r\n"), "{\"return\": {}}\r\n");
  ASSERT_EQ(target_.fds.count("state"), 1u);
  EXPECT_EQ(::fcntl(target_.fds["state"].get(), F_GETFD), FD_CLOEXEC);
  target_.fds.clear();
}

// A client that asks and never reads must neither block the VMM nor fill its memory.
TEST_F(MonitorServerTest, AClientThatDoesNotReadIsNotReadFrom) {
  ServeSocket(Protocol::kQmp);
  const UniqueFd client = Connect();
  ASSERT_THAT(WriteAll(client.get(), kCapabilities), IsOk());
  Settle();
  const std::string request = R"({"execute":"query-commands"})";
  size_t sent_bytes = 0;
  for (ssize_t n = 0; n >= 0 && sent_bytes < (64 << 20); Settle()) {
    n = ::send(client.get(), request.data(), request.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) sent_bytes += static_cast<size_t>(n);
  }
  EXPECT_LT(sent_bytes, 8u << 20);
  EXPECT_GT(sent_bytes, 0u);
}

TEST_F(MonitorServerTest, SuspendStopsReadingAndResumeGoesOn) {
  ServeSocket(Protocol::kHmp);
  const UniqueFd client = Connect();
  ReadUntil(client.get(), "(cpr-vmm) ");
  server_->Suspend();
  ASSERT_THAT(WriteAll(client.get(), "info status\n"), IsOk());
  Settle();
  char byte;
  EXPECT_EQ(::read(client.get(), &byte, 1), -1);
  server_->Resume();
  EXPECT_EQ(ReadUntil(client.get(), "(cpr-vmm) "), "VM status: running\n(cpr-vmm) ");
}

TEST_F(MonitorServerTest, ASocketThatCannotBeMadeIsNamed) {
  path_ = folder_ + "/none/qmp";
  const MonitorOptions options{Protocol::kQmp, {.kind = ChardevConfig::Kind::kSocket, .path = path_, .server = true}};
  const auto server = MonitorServer::Create({options}, &target_, loop_.get());
  EXPECT_THAT(std::string(server.status().message()), HasSubstr(path_));
}

TEST_F(MonitorServerTest, PlainStdioTakesLinesFromAPipe) {
  int in[2], out[2];
  ASSERT_EQ(::pipe2(in, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(out, O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd in_read(in[0]), out_read(out[0]), out_write(out[1]);
  UniqueFd in_write(in[1]);
  ServeStdio(Protocol::kHmp, in_read.get(), out_write.get());
  ASSERT_THAT(WriteAll(in_write.get(), "info status\nstop\n"), IsOk());
  EXPECT_EQ(
      ReadUntil(out_read.get(), "(cpr-vmm) (cpr-vmm) "),
      "cpr-vmm 0.1.0 monitor - type 'help' for more information\n(cpr-vmm) VM status: running\n(cpr-vmm) (cpr-vmm) ");
  in_write.Reset();
  Settle();
  EXPECT_THAT(target_.calls, ElementsAre("stop")) << "the end of stdin ends the monitor, not the VM";
  server_.reset();
}

TEST_F(MonitorServerTest, PlainStdioTakesLinesFromAFile) {
  const UniqueFd script(::memfd_create("script", MFD_CLOEXEC));
  ASSERT_THAT(PwriteAll(script.get(), "stop\ncont\n", 0), IsOk());
  const UniqueFd out(::memfd_create("out", MFD_CLOEXEC));
  ServeStdio(Protocol::kHmp, script.get(), out.get());
  Settle();
  EXPECT_THAT(target_.calls, ElementsAre("stop", "cont"));
  server_.reset();
}

class TerminalTest : public MonitorServerTest {
 protected:
  void SetUp() override {
    MonitorServerTest::SetUp();
    ::setenv("TERM", "vt100", 1);
    int master, slave;
    winsize size = {.ws_row = 24, .ws_col = 80};
    ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, &size), 0);
    master_ = UniqueFd(master);
    slave_ = UniqueFd(slave);
    ASSERT_THAT(SetNonblocking(master, true), IsOk());
    ASSERT_THAT(SetCloexec(master, true), IsOk());
    before_ = LocalFlags();
  }
  void TearDown() override {
    MonitorServerTest::TearDown();
    slave_.Reset();
    master_.Reset();
  }
  tcflag_t LocalFlags() const {
    termios modes = {};
    ::tcgetattr(slave_.get(), &modes);
    return modes.c_lflag & (ICANON | ECHO);
  }

  UniqueFd master_, slave_;
  tcflag_t before_ = 0;
};

TEST_F(TerminalTest, EditsLinesAndRemembersThem) {
  ServeStdio(Protocol::kHmp, slave_.get(), slave_.get());
  ReadUntil(master_.get(), "(cpr-vmm) ");
  EXPECT_NE(LocalFlags(), before_) << "keys do not come one by one";
  ASSERT_THAT(WriteAll(master_.get(), "infx\x7fo status\r"), IsOk());
  EXPECT_THAT(ReadUntil(master_.get(), "(cpr-vmm) "), HasSubstr("VM status: running\r\n"));
  target_.state = RunState::kPaused;
  ASSERT_THAT(WriteAll(master_.get(), "\x10\r"), IsOk());  // Ctrl-P: the line before
  EXPECT_THAT(ReadUntil(master_.get(), "(cpr-vmm) "), HasSubstr("VM status: paused\r\n"));
  ASSERT_THAT(WriteAll(master_.get(), "\x04"), IsOk());  // Ctrl-D: nothing but a new prompt
  ReadUntil(master_.get(), "(cpr-vmm) ");
  server_.reset();
  EXPECT_EQ(LocalFlags(), before_) << "the terminal is not as it was";
}

TEST_F(TerminalTest, MigrateWaitsWithoutAPrompt) {
  ServeStdio(Protocol::kHmp, slave_.get(), slave_.get());
  ReadUntil(master_.get(), "(cpr-vmm) ");
  ASSERT_THAT(target_.settings.SetMode("cpr-reboot"), IsOk());
  target_.info.status = MigrationStatus::kActive;
  ASSERT_THAT(WriteAll(master_.get(), "migrate file:x\r"), IsOk());
  ReadUntil(master_.get(), "\n");
  EXPECT_THAT(target_.calls, ElementsAre("migrate file:x"));
  EXPECT_EQ(LocalFlags(), before_);
  target_.info = {.status = MigrationStatus::kFailed, .error_desc = "disk full"};
  server_->Broadcast({.kind = MonitorEvent::Kind::kMigration, .status = MigrationStatus::kFailed});
  EXPECT_THAT(ReadUntil(master_.get(), "(cpr-vmm) "), HasSubstr("Error: disk full\r\n"));
}

TEST_F(TerminalTest, SuspendGivesTheTerminalBack) {
  ServeStdio(Protocol::kHmp, slave_.get(), slave_.get());
  ReadUntil(master_.get(), "(cpr-vmm) ");
  server_->Suspend();
  EXPECT_EQ(LocalFlags(), before_);
  server_->Resume();
  ReadUntil(master_.get(), "(cpr-vmm) ");
  ASSERT_THAT(WriteAll(master_.get(), "stop\r"), IsOk());
  ReadUntil(master_.get(), "(cpr-vmm) ");
  EXPECT_THAT(target_.calls, ElementsAre("stop"));
}

}  // namespace
}  // namespace cpr
