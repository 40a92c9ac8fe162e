#include "vmm/chardev/chardev.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/matchers.h"
#include "vmm/event_loop/event_loop.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;
using Kind = ChardevConfig::Kind;

class ChardevTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = "/tmp/chardev.XXXXXX";  // short: a socket's path has 107 bytes
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    CPR_ASSERT_OK_AND_ASSIGN(loop_, EventLoop::Create());
  }
  void TearDown() override {
    ::unlink(Path().c_str());
    ::rmdir(folder_.c_str());
  }

  std::string Path() const { return folder_ + "/x"; }
  ChardevConfig File(bool append = false) const { return {.kind = Kind::kFile, .path = Path(), .append = append}; }
  ChardevConfig Server() const { return {.kind = Kind::kSocket, .path = Path(), .server = true}; }

  // A device that takes `room` bytes and remembers what it got.
  ChardevCallbacks Collect() {
    return {.room = [this] { return room_; },
            .receive =
                [this](absl::string_view data) {
                  EXPECT_LE(data.size(), room_);
                  room_ -= data.size();
                  received_.append(data.data(), data.size());
                },
            .connection = [this](bool connected) { connections_ += connected ? "+" : "-"; }};
  }
  std::unique_ptr<Chardev> Open(const ChardevConfig& config) {
    absl::StatusOr<std::unique_ptr<Chardev>> device = Chardev::Create(config, loop_.get());
    EXPECT_THAT(device, IsOk());
    if (!device.ok()) return nullptr;
    (*device)->SetCallbacks(Collect());
    return *std::move(device);
  }
  // What a handover does with the descriptors.
  static std::map<std::string, UniqueFd> DupFds(const Chardev& device) {
    std::map<std::string, UniqueFd> fds;
    for (const ChardevFd& fd : device.Fds()) {
      EXPECT_THAT(CheckFdKind(fd.fd, fd.kind), IsOk());
      fds[fd.name] = *DupFd(fd.fd);
    }
    return fds;
  }
  void Settle() {
    while (loop_->RunOnce(absl::ZeroDuration())) {
    }
  }
  UniqueFd ConnectClient() {
    absl::StatusOr<UniqueFd> client = ConnectUnixStream(Path());
    EXPECT_THAT(client, IsOk());
    Settle();
    return *std::move(client);
  }
  static std::string ReadSome(int fd) {
    char data[65536];
    const ssize_t n = ::read(fd, data, sizeof(data));
    return n < 0 ? "error" : std::string(data, static_cast<size_t>(n));
  }
  std::string Contents() const {
    std::ostringstream text;
    text << std::ifstream(Path()).rdbuf();
    return text.str();
  }

  std::string folder_;
  std::unique_ptr<EventLoop> loop_;
  size_t room_ = 1000;
  std::string received_;
  std::string connections_;
};

TEST_F(ChardevTest, FileIsTruncatedOrAppendedTo) {
  std::ofstream(Path()) << "old ";
  Open(File(/*append=*/true))->Write("new");
  EXPECT_EQ(Contents(), "old new");
  Open(File())->Write("fresh");
  EXPECT_EQ(Contents(), "fresh");
}

TEST_F(ChardevTest, FileGoesOnAcrossAHandover) {
  auto old_side = Open(File());
  old_side->Write("before ");
  CPR_ASSERT_OK_AND_ASSIGN(auto new_side, Chardev::Adopt(File(), DupFds(*old_side), loop_.get()));
  old_side->Write("meanwhile ");  // the guest runs on while the new side is prepared
  old_side->Quiesce();
  old_side->Write("late ");  // an I/O completed while stopping: becomes state
  EXPECT_EQ(Contents(), "before meanwhile ");
  ASSERT_THAT(new_side->Restore(old_side->Save()), IsOk());
  old_side->ReleaseToPeer();
  old_side.reset();
  new_side->Resume();
  new_side->Write("after");
  EXPECT_EQ(Contents(), "before meanwhile late after");
}

TEST_F(ChardevTest, HandoverCalledOffLosesNothing) {
  auto device = Open(File());
  device->HoldConnections();
  device->Quiesce();
  device->Write("kept");
  EXPECT_EQ(Contents(), "");
  device->Resume();
  EXPECT_EQ(Contents(), "kept");
}

// cpr-reboot: the old VMM lives on beside the state that it saved, and ends when its user likes.
TEST_F(ChardevTest, WhatWasSavedIsWrittenByTheNewSideAlone) {
  auto old_side = Open(File());
  old_side->Write("before ");
  old_side->Quiesce();
  old_side->Write("saved ");
  const ChardevState state = old_side->Save();
  old_side.reset();
  EXPECT_EQ(Contents(), "before ");
  auto new_side = Open(File(/*append=*/true));
  new_side->Quiesce();
  ASSERT_THAT(new_side->Restore(state), IsOk());
  new_side->Resume();
  EXPECT_EQ(Contents(), "before saved ");
}

// A new side that fails after it has the state leaves everything to the old one.
TEST_F(ChardevTest, NewSideThatNeverRanTouchesNothing) {
  auto old_side = Open(Server());
  const UniqueFd client = ConnectClient();
  old_side->HoldConnections();
  CPR_ASSERT_OK_AND_ASSIGN(auto new_side, Chardev::Adopt(Server(), DupFds(*old_side), loop_.get()));
  old_side->Quiesce();
  old_side->Write("once");
  ASSERT_THAT(new_side->Restore(old_side->Save()), IsOk());
  new_side.reset();
  EXPECT_EQ(::access(Path().c_str(), F_OK), 0) << "the old side's socket was removed";
  old_side->Resume();
  old_side->Write(".");
  EXPECT_EQ(ReadSome(client.get()), "once.");
}

TEST_F(ChardevTest, SocketIsOursAloneAndGoneAfterwards) {
  {
    auto device = Open(Server());
    struct stat info;
    ASSERT_EQ(::stat(Path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    EXPECT_EQ(device->Describe(), "disconnected:unix:" + Path() + ",server=on");
  }
  EXPECT_NE(::access(Path().c_str(), F_OK), 0);
}

TEST_F(ChardevTest, SocketCarriesBothWays) {
  auto device = Open(Server());
  device->Write("nobody hears this");
  EXPECT_EQ(device->Save().dropped_bytes, 17u);
  const UniqueFd client = ConnectClient();
  EXPECT_TRUE(device->connected());
  ASSERT_THAT(WriteAll(client.get(), "in"), IsOk());
  Settle();
  EXPECT_EQ(received_, "in");
  device->Write("out");
  EXPECT_EQ(ReadSome(client.get()), "out");
}

TEST_F(ChardevTest, NextClientMayComeWhenTheFirstHasLeft) {
  auto device = Open(Server());
  UniqueFd first = ConnectClient();
  const UniqueFd second = ConnectClient();  // waits in the queue
  device->Write("1");
  first.Reset();
  Settle();
  device->Write("2");
  EXPECT_EQ(ReadSome(second.get()), "2");
  EXPECT_EQ(connections_, "+-+");
}

TEST_F(ChardevTest, InputWaitsInTheKernelUntilThereIsRoom) {
  auto device = Open(Server());
  const UniqueFd client = ConnectClient();
  room_ = 3;
  ASSERT_THAT(WriteAll(client.get(), "abcdef"), IsOk());
  Settle();
  EXPECT_EQ(received_, "abc");
  room_ = 2;
  device->AcceptInput();
  Settle();
  EXPECT_EQ(received_, "abcde");
}

TEST_F(ChardevTest, SlowReaderGetsEverythingInOrder) {
  auto device = Open(Server());
  const UniqueFd client = ConnectClient();
  // From another thread, as a vCPU's: more than the socket holds, less than we keep on top.
  std::string sent;
  std::thread vcpu([&] {
    for (int i = 0; sent.size() < Output::kLimitBytes; ++i) {
      const std::string line = "line " + std::to_string(i) + "\n";
      device->Write(line);
      sent += line;
    }
  });
  vcpu.join();
  std::string seen;
  while (seen.size() < sent.size()) {
    Settle();
    seen += ReadSome(client.get());
  }
  EXPECT_EQ(seen, sent);
  EXPECT_EQ(device->Save().dropped_bytes, 0u);
}

TEST_F(ChardevTest, ConnectedClientIsNotCutByAHandover) {
  auto old_side = Open(Server());
  const UniqueFd client = ConnectClient();
  old_side->Write("a");
  old_side->HoldConnections();
  CPR_ASSERT_OK_AND_ASSIGN(auto new_side, Chardev::Adopt(Server(), DupFds(*old_side), loop_.get()));
  new_side->SetCallbacks(Collect());
  EXPECT_TRUE(new_side->connected());
  old_side->Quiesce();
  old_side->Write("b");
  ASSERT_THAT(WriteAll(client.get(), "typed during the pause"), IsOk());
  Settle();
  EXPECT_EQ(received_, "");
  ASSERT_THAT(new_side->Restore(old_side->Save()), IsOk());
  old_side->ReleaseToPeer();
  old_side.reset();
  new_side->Resume();
  new_side->Write("c");
  Settle();
  EXPECT_EQ(received_, "typed during the pause");
  EXPECT_EQ(ReadSome(client.get()), "abc");
  // The new side owns the path: still connectable, and removed by it at the end.
  EXPECT_EQ(::access(Path().c_str(), F_OK), 0);
  new_side.reset();
  EXPECT_NE(::access(Path().c_str(), F_OK), 0);
}

TEST_F(ChardevTest, WhoConnectsDuringTheHandoverIsServedByTheNewSide) {
  auto old_side = Open(Server());
  old_side->HoldConnections();
  CPR_ASSERT_OK_AND_ASSIGN(auto new_side, Chardev::Adopt(Server(), DupFds(*old_side), loop_.get()));
  const UniqueFd client = ConnectClient();
  EXPECT_FALSE(old_side->connected());
  old_side->ReleaseToPeer();
  old_side.reset();
  new_side->Resume();
  Settle();
  new_side->Write("hello");
  EXPECT_EQ(ReadSome(client.get()), "hello");
}

TEST_F(ChardevTest, AdoptRefusesWrongDescriptors) {
  const auto adopt = [&](const ChardevConfig& config, std::map<std::string, UniqueFd> fds) {
    return Chardev::Adopt(config, std::move(fds), loop_.get()).status();
  };
  EXPECT_THAT(adopt(Server(), {}), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'listener' is missing")));
  auto socket = Open(Server());
  std::map<std::string, UniqueFd> fds = DupFds(*socket);
  fds["client"] = *DupFd(fds["listener"].get());
  EXPECT_THAT(adopt(Server(), std::move(fds)), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("client")));
  fds = DupFds(*socket);
  fds["file"] = *DupFd(fds["listener"].get());
  EXPECT_THAT(adopt(Server(), std::move(fds)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'file' does not belong")));
  const ChardevConfig pty = {.kind = Kind::kPty};
  fds = DupFds(*socket);
  fds["pty"] = std::move(fds["listener"]);
  fds.erase("listener");
  EXPECT_THAT(adopt(pty, std::move(fds)), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no pty")));
}

TEST_F(ChardevTest, ClientSocketConnects) {
  auto server = Open(Server());
  CPR_ASSERT_OK_AND_ASSIGN(auto client, Chardev::Create({.kind = Kind::kSocket, .path = Path()}, loop_.get()));
  Settle();
  client->Write("hi");
  Settle();
  EXPECT_EQ(received_, "hi");
}

TEST_F(ChardevTest, PtyUserKeepsTheTerminalAcrossAHandover) {
  const ChardevConfig config = {.kind = Kind::kPty};
  auto old_side = Open(config);
  const std::string shown = old_side->Describe();
  ASSERT_THAT(shown, ::testing::StartsWith("pty:/dev/pts/"));
  const UniqueFd user(::open(shown.substr(4).c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  old_side->Write("1\n");
  CPR_ASSERT_OK_AND_ASSIGN(auto new_side, Chardev::Adopt(config, DupFds(*old_side), loop_.get()));
  new_side->SetCallbacks(Collect());
  old_side->ReleaseToPeer();
  old_side.reset();
  new_side->Resume();
  EXPECT_EQ(new_side->Describe(), shown);
  new_side->Write("2\n");
  std::string seen;  // a pty passes on in its own time
  while (seen.size() < 4) seen += ReadSome(user.get());
  EXPECT_EQ(seen, "1\n2\n");  // raw: no carriage returns added
  ASSERT_THAT(WriteAll(user.get(), "typed"), IsOk());
  while (received_.size() < 5) loop_->RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(received_, "typed");
}

// Lends other descriptors as this process's stdin and stdout.
class StdioTest : public ChardevTest {
 protected:
  void Redirect(int in, int out) {
    in_ = *DupFd(STDIN_FILENO);
    out_ = *DupFd(STDOUT_FILENO);
    ::dup2(in, STDIN_FILENO);
    ::dup2(out, STDOUT_FILENO);
  }
  void Return() {
    ::dup2(in_.get(), STDIN_FILENO);
    ::dup2(out_.get(), STDOUT_FILENO);
    in_.Reset();
    out_.Reset();
  }
  UniqueFd in_, out_;
};

TEST_F(StdioTest, PipesWorkAndKeepTheirFlags) {
  int in[2], out[2];
  ASSERT_EQ(::pipe2(in, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(out, O_CLOEXEC), 0);
  Redirect(in[0], out[1]);
  auto device = Open({.kind = Kind::kStdio});
  Return();
  EXPECT_EQ(::fcntl(in[0], F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(out[1], F_GETFL) & O_NONBLOCK, 0);
  ASSERT_THAT(WriteAll(in[1], "typed"), IsOk());
  Settle();
  EXPECT_EQ(received_, "typed");
  device->Write("shown");
  EXPECT_EQ(ReadSome(out[0]), "shown");
  ::close(in[1]);
  Settle();  // end of input ends reading, not the device
  device->Write("still");
  EXPECT_EQ(ReadSome(out[0]), "still");
  device.reset();
  for (const int fd : {in[0], out[0], out[1]}) ::close(fd);
}

TEST_F(StdioTest, FileAsStdinIsReadAsRoomAllows) {
  std::ofstream(Path()) << "script";
  const UniqueFd file(::open(Path().c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  Redirect(file.get(), null.get());
  room_ = 4;
  auto device = Open({.kind = Kind::kStdio});
  Return();
  Settle();
  EXPECT_EQ(received_, "scri");
  room_ = 9;
  device->AcceptInput();
  Settle();
  EXPECT_EQ(received_, "script");
}

TEST_F(ChardevTest, RestoreRefusesWhatNoDeviceCanHold) {
  auto device = Open({.kind = Kind::kNull});
  ChardevState state;
  state.unwritten.assign(Output::kLimitBytes + 1, 'x');
  EXPECT_THAT(device->Restore(state), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("unwritten bytes")));
}

TEST_F(ChardevTest, CreateNeedsAKindAndAPlace) {
  EXPECT_THAT(Chardev::Create({}, loop_.get()), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kind")));
  EXPECT_THAT(Chardev::Create({.kind = Kind::kFile, .path = "/nonexistent/x"}, loop_.get()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/x")));
}

TEST_F(ChardevTest, WaitWaitsForAClient) {
  ChardevConfig config = Server();
  config.wait = true;
  UniqueFd client;
  std::thread connects([&] {
    absl::StatusOr<UniqueFd> fd = ConnectUnixStream(Path());
    while (!fd.ok()) fd = ConnectUnixStream(Path());
    client = *std::move(fd);
  });
  auto device = Open(config);
  connects.join();
  EXPECT_TRUE(device->connected());
  device->Write("first words");
  EXPECT_EQ(ReadSome(client.get()), "first words");
}

}  // namespace
}  // namespace cpr
