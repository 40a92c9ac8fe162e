#include "libcpr/preserve/live_update.h"

#include <sys/eventfd.h>
#include <sys/mman.h>

#include <cerrno>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/fake_live_update.h"
#include "libcpr/preserve/live_update_uapi.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeLiveUpdate;
using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A memfd that holds `text`.
UniqueFd Memfd(absl::string_view text) {
  UniqueFd fd(::memfd_create("ram", MFD_CLOEXEC));
  EXPECT_THAT(WriteAll(fd.get(), text), IsOk());
  return fd;
}

std::string TextOf(int fd) {
  std::string text(3, '\0');
  EXPECT_THAT(PreadAll(fd, text.data(), text.size(), 0), IsOk());
  return text;
}

class LiveUpdateTest : public ::testing::Test {
 protected:
  LiveUpdate Device() { return LiveUpdate::Adopt(UniqueFd(), kernel_.Ioctl()); }

  FakeLiveUpdate kernel_;
};

TEST_F(LiveUpdateTest, WhatIsPreservedIsThereInTheNextKernel) {
  {
    const UniqueFd ram = Memfd("ram"), state = Memfd("cpu");
    CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().CreateSession("vm1"));
    EXPECT_EQ(session.name(), "vm1");
    ASSERT_THAT(session.PreserveFd(ram.get(), 7), IsOk());
    ASSERT_THAT(session.PreserveFd(state.get(), UINT64_MAX), IsOk());
    kernel_.Kexec();
  }
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().RetrieveSession("vm1"));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd state, session.RetrieveFd(UINT64_MAX));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd ram, session.RetrieveFd(7));
  EXPECT_EQ(TextOf(ram.get()), "ram");
  EXPECT_EQ(TextOf(state.get()), "cpu");
  EXPECT_THAT(session.Finish(), IsOk());
  EXPECT_EQ(StatusErrno(session.RetrieveFd(7).status()), ENOENT);
}

// The whole life of a session.
absl::Status PreserveAndRetrieve(FakeLiveUpdate& kernel) {
  const UniqueFd ram = Memfd("ram");
  LiveUpdate device = LiveUpdate::Adopt(UniqueFd(), kernel.Ioctl());
  CPR_ASSIGN_OR_RETURN(LiveUpdateSession old_session, device.CreateSession("vm1"));
  CPR_RETURN_IF_ERROR(old_session.PreserveFd(ram.get(), 7));
  kernel.Kexec();
  CPR_ASSIGN_OR_RETURN(LiveUpdateSession session, device.RetrieveSession("vm1"));
  CPR_RETURN_IF_ERROR(session.RetrieveFd(7).status());
  return session.Finish();
}

TEST_F(LiveUpdateTest, EachRefusalNamesItsRequestAndTheSession) {
  ASSERT_THAT(PreserveAndRetrieve(kernel_), IsOk());
  const std::map<unsigned long, std::string> requests = {{kLiveUpdateCreateSession, "CREATE_SESSION"},  // NOLINT
                                                         {kLiveUpdateRetrieveSession, "RETRIEVE_SESSION"},
                                                         {kLiveUpdatePreserveFd, "PRESERVE_FD"},
                                                         {kLiveUpdateRetrieveFd, "RETRIEVE_FD"},
                                                         {kLiveUpdateFinish, "FINISH"}};
  for (const auto& [request, name] : requests) {
    FakeLiveUpdate kernel;
    kernel.Refuse(request, ENOMEM);
    const absl::Status status = PreserveAndRetrieve(kernel);
    EXPECT_EQ(StatusErrno(status), ENOMEM) << name;
    EXPECT_THAT(status.message(), AllOf(HasSubstr(name), HasSubstr("'vm1'")));
  }
}

TEST_F(LiveUpdateTest, NamesThatDoNotFitNeverReachTheKernel) {
  kernel_.Refuse(kLiveUpdateCreateSession, EIO);
  kernel_.Refuse(kLiveUpdateRetrieveSession, EIO);
  LiveUpdate device = Device();
  for (const std::string& name : {std::string(), std::string(64, 'x'), std::string("a\0b", 3)}) {
    EXPECT_THAT(device.CreateSession(name), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("63 bytes")));
    EXPECT_THAT(device.RetrieveSession(name), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("63 bytes")));
  }
}

TEST_F(LiveUpdateTest, TheLongestNameArrivesWhole) {
  const std::string name(63, 'x');
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession session, Device().CreateSession(name));
  EXPECT_TRUE(kernel_.Has(name));
}

TEST_F(LiveUpdateTest, OneNameOneSession) {
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession session, Device().CreateSession("vm1"));
  EXPECT_THAT(Device().CreateSession("vm1"), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("'vm1'")));
  kernel_.Kexec();
  EXPECT_THAT(Device().RetrieveSession("vm2"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'vm2'")));
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession retrieved, Device().RetrieveSession("vm1"));
  EXPECT_THAT(Device().RetrieveSession("vm1"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("retrieved already")));
}

TEST_F(LiveUpdateTest, WhatTheKernelCannotPreserveIsNamed) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().CreateSession("vm1"));
  EXPECT_THAT(session.PreserveFd(event.get(), 1),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr(absl::StrCat("fd ", event.get(), " ")), HasSubstr("eventfd"))));
  EXPECT_THAT(session.PreserveFd(-1, 1).message(), HasSubstr("fd -1 (not open)"));
}

TEST_F(LiveUpdateTest, OneTokenOneFile) {
  const UniqueFd ram = Memfd("ram"), more = Memfd("mor");
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().CreateSession("vm1"));
  ASSERT_THAT(session.PreserveFd(ram.get(), 7), IsOk());
  EXPECT_THAT(session.PreserveFd(more.get(), 7), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("token 7")));
  kernel_.Kexec();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession retrieved, Device().RetrieveSession("vm1"));
  EXPECT_THAT(retrieved.RetrieveFd(8), StatusIs(absl::StatusCode::kNotFound, HasSubstr("token 8")));
}

TEST_F(LiveUpdateTest, ASessionThatNobodyHoldsPreservesNothing) {
  const UniqueFd ram = Memfd("ram");
  {
    CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, Device().CreateSession("vm1"));
    ASSERT_THAT(session.PreserveFd(ram.get(), 7), IsOk());
  }
  kernel_.Kexec();
  EXPECT_THAT(Device().RetrieveSession("vm1"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'vm1'")));
}

TEST_F(LiveUpdateTest, AnotherProcessMayFillASession) {
  CPR_ASSERT_OK_AND_ASSIGN(const LiveUpdateSession session, Device().CreateSession("vm1"));
  LiveUpdateSession lent = LiveUpdateSession::Adopt(UniqueFd(), "vm1", [&](int, unsigned long request, void* argument) {
    return kernel_.Ioctl()(session.fd(), request, argument);  // a duplicate, to the kernel the same
  });
  const UniqueFd ram = Memfd("ram");
  EXPECT_THAT(lent.PreserveFd(ram.get(), 7), IsOk());
  kernel_.Kexec();
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession retrieved, Device().RetrieveSession("vm1"));
  EXPECT_THAT(retrieved.RetrieveFd(7), IsOk());
}

TEST_F(LiveUpdateTest, AHostWithoutItIsNamed) {
  EXPECT_THAT(LiveUpdate::Open("/dev/no-such-liveupdate"),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("/dev/no-such-liveupdate"), HasSubstr("liveupdate=on"))));
}

}  // namespace
}  // namespace cpr
