// A peer of another user is refused by name.

#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/child_process.h"
#include "libcpr/testing/helper.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::ChildProcess;
using ::cpr::testing::HelperCommand;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr uid_t kNobody = 65534;

// Connects as nobody. args: the path, "packet" or "stream". 0: connected, and the listener closed the connection.
CPR_TEST_HELPER(ConnectAsNobody, (const std::vector<std::string>& args)) {
  if (::setresuid(kNobody, kNobody, kNobody) != 0) return 2;
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  if (args[1] == "stream") {
    const auto fd = ConnectUnixStream(args[0]);
    return fd.ok() && WaitReadable(fd->get(), deadline).ok() ? 0 : 3;
  }
  auto socket = PacketSocket::Connect(args[0]);
  if (!socket.ok() || !WaitReadable(socket->fd(), deadline).ok()) return 3;
  const auto packet = socket->Receive();
  return packet.ok() && packet->eof ? 0 : 4;
}

class PeerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
    ::unlink(path_.c_str());
  }
  ~PeerTest() override { ::unlink(path_.c_str()); }
  const std::string path_ = "/tmp/cpr_peer_test." + std::to_string(::getpid());
};

TEST_F(PeerTest, AnotherUsersPacketsAreRefused) {
  CPR_ASSERT_OK_AND_ASSIGN(const PacketSocket listener, PacketSocket::Listen(path_));
  ASSERT_EQ(::chmod(path_.c_str(), 0666), 0);
  ChildProcess child(HelperCommand("ConnectAsNobody", {path_, "packet"}));
  ASSERT_TRUE(WaitReadable(listener.fd(), absl::Now() + absl::Seconds(10)).ok());
  EXPECT_THAT(listener.Accept(), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("uid 65534")));
  EXPECT_EQ(child.Wait(), 0);
}

TEST_F(PeerTest, AnotherUsersStreamIsRefused) {
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd listener, ListenUnixStream(path_));
  ASSERT_EQ(::chmod(path_.c_str(), 0666), 0);
  ChildProcess child(HelperCommand("ConnectAsNobody", {path_, "stream"}));
  ASSERT_TRUE(WaitReadable(listener.get(), absl::Now() + absl::Seconds(10)).ok());
  EXPECT_THAT(AcceptStream(listener.get()), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("uid 65534")));
  EXPECT_EQ(child.Wait(), 0);
}

TEST_F(PeerTest, TheSocketIsClosedToOthersFromTheStart) {
  CPR_ASSERT_OK_AND_ASSIGN(const PacketSocket listener, PacketSocket::Listen(path_));
  EXPECT_EQ(ChildProcess(HelperCommand("ConnectAsNobody", {path_, "packet"})).Wait(), 3);
}

}  // namespace
}  // namespace cpr
