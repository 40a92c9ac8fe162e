#include "vmm/app/named_fds.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;
using Use = NamedFds::Use;

bool Nonblocking(int fd) { return (::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0; }

class NamedFdsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    read_.Reset(fds[0]);
    write_.Reset(fds[1]);
  }
  NamedFds fds_;
  UniqueFd read_, write_;
};

TEST_F(NamedFdsTest, GivenDescriptorIsTakenOnce) {
  fds_.Adopt("main", std::move(write_));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd taken, fds_.TakeStream("main", Use::kWrite));
  EXPECT_TRUE(Nonblocking(taken.get()));
  EXPECT_THAT(fds_.TakeStream("main", Use::kWrite),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("File descriptor named 'main' has not been found")));
}

TEST_F(NamedFdsTest, NumberIsDuplicated) {
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd taken, fds_.TakeStream(absl::StrCat(read_.get()), Use::kRead));
  EXPECT_NE(taken.get(), read_.get());
  EXPECT_THAT(fds_.TakeStream("999", Use::kRead), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("fd:999")));
}

TEST_F(NamedFdsTest, WrongEndIsRefusedAndKept) {
  fds_.Adopt("main", std::move(read_));
  EXPECT_THAT(fds_.TakeStream("main", Use::kWrite),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("fd:main: not open for writing")));
  EXPECT_THAT(fds_.TakeStream("main", Use::kRead), IsOk());
}

TEST_F(NamedFdsTest, OnlyWhatCarriesAStreamIsTaken) {
  fds_.Adopt("epoll", UniqueFd(::epoll_create1(EPOLL_CLOEXEC)));
  fds_.Adopt("packets", UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)));
  for (const std::string name : {"epoll", "packets"}) {
    EXPECT_THAT(fds_.TakeStream(name, Use::kRead), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("neither")));
  }
}

TEST_F(NamedFdsTest, RegularFileStaysBlockingAndIsNoMainChannel) {
  const cpr::testing::TempFolder folder;
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd file, OpenFile(folder.File("f"), O_RDWR | O_CREAT));
  fds_.Adopt("file", std::move(file));
  EXPECT_THAT(fds_.TakePipeOrSocket("file", Use::kWrite),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("streamable transport")));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd taken, fds_.TakeStream("file", Use::kWrite));
  EXPECT_FALSE(Nonblocking(taken.get()));
}

}  // namespace
}  // namespace cpr
