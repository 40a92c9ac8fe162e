// What a real kernel refuses to preserve, and in which words we say so. For a host with Live Update: the testbed's
// scenario liveupdate runs it.
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/preserve/live_update.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr off_t kBytes = 2 << 20;

UniqueFd Memfd(unsigned flags = 0) {
  UniqueFd fd(::memfd_create("some-ram", MFD_CLOEXEC | flags));
  EXPECT_EQ(::ftruncate(fd.get(), kBytes), 0);
  return fd;
}

TEST(RefusalsTest, ASecondOpenerIsToldThatItIsOne) {
  {
    CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdate first, LiveUpdate::Open());
    EXPECT_THAT(LiveUpdate::Open(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("another program has it open")));
  }
  EXPECT_THAT(LiveUpdate::Open(), IsOk());
}

TEST(RefusalsTest, NothingOfThatNameWasPreserved) {
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdate device, LiveUpdate::Open());
  EXPECT_THAT(device.RetrieveSession("nobody"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'nobody'")));
  // Nor is one of this kernel's there before there is another kernel.
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession session, device.CreateSession("mine"));
  EXPECT_THAT(device.RetrieveSession("mine"), StatusIs(absl::StatusCode::kNotFound, _));
  EXPECT_THAT(device.CreateSession("mine"), StatusIs(absl::StatusCode::kAlreadyExists, _));
}

TEST(RefusalsTest, TheLongestNameIsTaken) {
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdate device, LiveUpdate::Open());
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession session, device.CreateSession(std::string(63, 'x')));
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession other, device.CreateSession(std::string(62, 'x')));
}

TEST(RefusalsTest, WhatCannotBePreservedIsNamed) {
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdate device, LiveUpdate::Open());
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, device.CreateSession("vm1"));
  const UniqueFd huge = Memfd(MFD_HUGETLB), event(::eventfd(0, EFD_CLOEXEC));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd file, OpenFile("/dev/shm/ram", O_CREAT | O_RDWR));
  const std::vector<std::pair<int, std::string>> fds = {
      {huge.get(), "some-ram"}, {event.get(), "eventfd"}, {file.get(), "/dev/shm/ram"}};
  for (const auto& [fd, target] : fds) {
    EXPECT_THAT(session.PreserveFd(fd, 1),
                StatusIs(absl::StatusCode::kUnimplemented,
                         AllOf(HasSubstr("'vm1'"), HasSubstr(absl::StrCat("fd ", fd, " (")), HasSubstr(target))));
  }
  ::unlink("/dev/shm/ram");
  // None of them has spoilt the session.
  EXPECT_THAT(session.PreserveFd(Memfd().get(), 1), IsOk());
  EXPECT_THAT(session.PreserveFd(Memfd().get(), 1), StatusIs(absl::StatusCode::kAlreadyExists, _));
  EXPECT_THAT(session.RetrieveFd(1), StatusIs(absl::StatusCode::kInvalidArgument, _)) << "it is for the next kernel";
}

TEST(RefusalsTest, AFileIsInOneSessionAndItsSizeFixedUntilThatCloses) {
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdate device, LiveUpdate::Open());
  const UniqueFd ram = Memfd();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession other, device.CreateSession("vm2"));
  {
    CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, device.CreateSession("vm1"));
    ASSERT_THAT(session.PreserveFd(ram.get(), 1), IsOk());
    EXPECT_THAT(other.PreserveFd(ram.get(), 1), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'vm2'")));
    EXPECT_EQ(::ftruncate(ram.get(), 2 * kBytes), -1);
    EXPECT_THAT(PwriteAll(ram.get(), "the guest runs on", 0), IsOk());
  }
  EXPECT_THAT(other.PreserveFd(ram.get(), 1), IsOk()) << "as soon as the session is closed, not some time later";
}

}  // namespace
}  // namespace cpr
