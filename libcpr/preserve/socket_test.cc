#include "libcpr/preserve/socket.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::HasSubstr;

// A free name; not under TempDir(), which Bazel makes longer than a socket's path may be.
std::string SocketPath(const std::string& name) {
  const std::string path = "/tmp/cpr_socket_test." + name + std::to_string(::getpid());
  ::unlink(path.c_str());
  return path;
}

absl::Time Soon() { return absl::Now() + absl::Seconds(5); }

struct Pair {
  Pair() {
    auto made = PacketSocket::CreatePair();
    a.emplace(std::move(made->first));
    b.emplace(std::move(made->second));
  }
  std::optional<PacketSocket> a, b;
};

TEST(PacketSocketTest, BytesAndFdsArriveTogether) {
  Pair pair;
  const UniqueFd sent(::eventfd(7, 0));
  const int fds[] = {sent.get(), sent.get()};
  ASSERT_THAT(pair.a->Send("hello", fds), IsOk());
  ASSERT_THAT(pair.a->Send("again"), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const Packet packet, pair.b->Receive());
  EXPECT_EQ(packet.bytes, "hello");
  ASSERT_EQ(packet.fds.size(), 2u);
  EXPECT_NE(::fcntl(packet.fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  uint64_t value = 0;
  ASSERT_EQ(::read(packet.fds[1].get(), &value, sizeof(value)), 8);
  EXPECT_EQ(value, 7u);
  CPR_ASSERT_OK_AND_ASSIGN(const Packet second, pair.b->Receive());
  EXPECT_EQ(second.bytes, "again");
  EXPECT_TRUE(second.fds.empty());
}

TEST(PacketSocketTest, TheLimitsPassAndOneMoreIsRefused) {
  Pair pair;
  const UniqueFd sent(::eventfd(0, EFD_CLOEXEC));
  const std::string bytes(PacketSocket::kMaxBytes, 'x');
  ASSERT_THAT(pair.a->Send(bytes, std::vector<int>(PacketSocket::kMaxFds, sent.get())), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const Packet packet, pair.b->Receive());
  EXPECT_EQ(packet.bytes, bytes);
  EXPECT_EQ(packet.fds.size(), PacketSocket::kMaxFds);
  EXPECT_THAT(pair.a->Send("x", std::vector<int>(PacketSocket::kMaxFds + 1, sent.get())),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("254 fds")));
  EXPECT_THAT(pair.a->Send(bytes + "x"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("131073 bytes")));
  EXPECT_THAT(pair.a->Send(""), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST(PacketSocketTest, NothingThereIsUnavailable) {
  Pair pair;
  EXPECT_THAT(pair.b->Receive(), StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_THAT(WaitReadable(pair.b->fd(), absl::Now()), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
}

TEST(PacketSocketTest, AFullQueueIsUnavailableAndDrains) {
  Pair pair;
  const std::string bytes(1024, 'x');
  absl::Status status;
  int sent = 0;
  while ((status = pair.a->Send(bytes)).ok()) ++sent;
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("full")));
  for (int i = 0; i < sent; ++i) ASSERT_THAT(pair.b->Receive(), IsOk());
  EXPECT_THAT(WaitWritable(pair.a->fd(), Soon()), IsOk());
  EXPECT_THAT(pair.a->Send(bytes), IsOk());
}

TEST(PacketSocketTest, APeerThatLeftIsSeenOnBothPaths) {
  Pair pair;
  ASSERT_THAT(pair.b->Send("last words"), IsOk());
  pair.b.reset();
  CPR_ASSERT_OK_AND_ASSIGN(const Packet words, pair.a->Receive());
  EXPECT_EQ(words.bytes, "last words");
  CPR_ASSERT_OK_AND_ASSIGN(const Packet end, pair.a->Receive());
  EXPECT_TRUE(end.eof);
  EXPECT_THAT(pair.a->Send("x"), StatusIs(absl::StatusCode::kFailedPrecondition, "peer is gone"));
}

TEST(PacketSocketTest, AMessageThatIsTooLongIsAnErrorAndItsFdsAreClosed) {
  Pair pair;
  const UniqueFd sent(::eventfd(0, EFD_CLOEXEC));
  int buffer_bytes = 1 << 20;
  ::setsockopt(pair.a->fd(), SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(buffer_bytes));
  std::string bytes(PacketSocket::kMaxBytes + 1, 'x');
  iovec data = {bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  *CMSG_FIRSTHDR(&message) = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  *reinterpret_cast<int*>(CMSG_DATA(CMSG_FIRSTHDR(&message))) = sent.get();
  ASSERT_EQ(::sendmsg(pair.a->fd(), &message, 0), static_cast<ssize_t>(bytes.size()));
  EXPECT_THAT(pair.b->Receive(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("truncated")));
}

TEST(PacketSocketTest, FdsThatDoNotFitTheTableAreAnErrorAndNoneLeaks) {
  Pair pair;
  const UniqueFd sent(::eventfd(0, EFD_CLOEXEC));
  ASSERT_THAT(pair.a->Send("x", std::vector<int>(64, sent.get())), IsOk());
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit tight = {.rlim_cur = static_cast<rlim_t>(sent.get()) + 8, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
  EXPECT_THAT(pair.b->Receive(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("truncated")));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(PacketSocketTest, ListenConnectAccept) {
  const std::string path = SocketPath("cpr");
  CPR_ASSERT_OK_AND_ASSIGN(const PacketSocket listener, PacketSocket::Listen(path));
  struct stat st;
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  EXPECT_THAT(listener.Accept(), StatusIs(absl::StatusCode::kUnavailable, _));
  CPR_ASSERT_OK_AND_ASSIGN(PacketSocket client, PacketSocket::Connect(path));
  CPR_ASSERT_OK_AND_ASSIGN(PacketSocket server, listener.Accept());
  ASSERT_THAT(client.Send("x"), IsOk());
  EXPECT_THAT(server.Receive(), IsOk());
  ::unlink(path.c_str());
}

TEST(PacketSocketTest, AStaleSocketIsReplacedALiveOneIsLeftAlone) {
  const std::string path = SocketPath("stale");
  CPR_ASSERT_OK_AND_ASSIGN(auto first, PacketSocket::Listen(path));
  EXPECT_THAT(PacketSocket::Listen(path), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(path)));
  EXPECT_THAT(ListenUnixStream(path), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(path)));
  EXPECT_THAT(first.Accept(), StatusIs(absl::StatusCode::kUnavailable, _)) << "the probe was seen as a connection";
  first.Release().Reset();
  EXPECT_THAT(PacketSocket::Connect(path), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(path)));
  EXPECT_THAT(PacketSocket::Listen(path), IsOk());
  ::unlink(path.c_str());
}

TEST(PacketSocketTest, AFileInTheWayIsNotRemoved) {
  const std::string path = SocketPath("file");
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd file, OpenFile(path, O_CREAT | O_RDWR));
  EXPECT_THAT(PacketSocket::Listen(path), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("not a socket")));
  EXPECT_EQ(::access(path.c_str(), F_OK), 0);
  ::unlink(path.c_str());
}

TEST(PacketSocketTest, PathsThatDoNotFitAreRefused) {
  EXPECT_THAT(PacketSocket::Listen(std::string(108, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("107 bytes")));
  EXPECT_THAT(PacketSocket::Connect(""), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST(PacketSocketTest, AdoptTakesOnlySeqpacket) {
  EXPECT_THAT(PacketSocket::Adopt(UniqueFd(::eventfd(0, EFD_CLOEXEC))),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  EXPECT_THAT(PacketSocket::Adopt(UniqueFd(fds[0])),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("SEQPACKET")));
  ::close(fds[1]);
  Pair pair;
  CPR_ASSERT_OK_AND_ASSIGN(PacketSocket adopted, PacketSocket::Adopt(pair.a->Release()));
  EXPECT_THAT(adopted.Send("x"), IsOk());
}

TEST(StreamSocketTest, Unix) {
  const std::string path = SocketPath("main");
  EXPECT_THAT(ConnectUnixStream(path), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(path)));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd listener, ListenUnixStream(path));
  EXPECT_THAT(AcceptStream(listener.get()), StatusIs(absl::StatusCode::kUnavailable, _));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd client, ConnectUnixStream(path));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd server, AcceptStream(listener.get()));
  ASSERT_THAT(WriteAll(client.get(), "abc"), IsOk());
  char buffer[3];
  EXPECT_EQ(::read(server.get(), buffer, 3), 3);
  ::unlink(path.c_str());
}

// Listens on a free port of `host`, found by trying.
UniqueFd ListenAnywhere(const std::string& host, uint16_t* port) {
  for (*port = 20000; *port < 20100; ++*port) {
    if (auto fd = ListenTcp(host, *port); fd.ok()) return *std::move(fd);
  }
  return UniqueFd();
}

TEST(StreamSocketTest, Tcp) {
  uint16_t port;
  UniqueFd listener = ListenAnywhere("localhost", &port);
  ASSERT_TRUE(listener.ok());
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd client, ConnectTcp("", port));
  ASSERT_THAT(WaitWritable(client.get(), Soon()), IsOk());
  EXPECT_THAT(FinishConnect(client.get()), IsOk());
  ASSERT_THAT(WaitReadable(listener.get(), Soon()), IsOk());
  EXPECT_THAT(AcceptStream(listener.get()), IsOk());
  listener.Reset();
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd nobody, ConnectTcp("127.0.0.1", port));
  ASSERT_THAT(WaitWritable(nobody.get(), Soon()), IsOk());
  EXPECT_THAT(FinishConnect(nobody.get()), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST(StreamSocketTest, HostZeroIsAnyAddressToListenAtAndLoopbackToConnectTo) {
  uint16_t port;
  const UniqueFd listener = ListenAnywhere("0", &port);
  ASSERT_TRUE(listener.ok());
  for (const char* host : {"0", "127.0.0.1"}) {
    CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd client, ConnectTcp(host, port));
    ASSERT_THAT(WaitWritable(client.get(), Soon()), IsOk());
    EXPECT_THAT(FinishConnect(client.get()), IsOk()) << host;
  }
}

TEST(StreamSocketTest, PortZeroAndNamesAreRefused) {
  EXPECT_THAT(ListenTcp("localhost", 0), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("port 0")));
  EXPECT_THAT(ConnectTcp("localhost", 0), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("port 0")));
  EXPECT_THAT(ConnectTcp("example.org", 1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'example.org'")));
}

}  // namespace
}  // namespace cpr
