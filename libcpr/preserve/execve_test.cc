#include "libcpr/preserve/execve.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

bool HasCloexec(int fd) { return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }

UniqueFd Eventfd() { return UniqueFd(::eventfd(0, EFD_CLOEXEC)); }

TEST(ExecSetTest, ClearsCloexecWhileArmedOnly) {
  const UniqueFd kept = Eventfd(), other = Eventfd(), open_anyway(::eventfd(0, 0));
  {
    ExecSet set({kept.get(), open_anyway.get()});
    EXPECT_TRUE(HasCloexec(kept.get()));
    ASSERT_THAT(set.Arm(), IsOk());
    EXPECT_FALSE(HasCloexec(kept.get()));
    EXPECT_TRUE(HasCloexec(other.get()));
  }
  EXPECT_TRUE(HasCloexec(kept.get()));
  EXPECT_FALSE(HasCloexec(open_anyway.get())) << "roll-back changed what was so before";
}

TEST(ExecSetTest, AnErrorLeavesNoneArmed) {
  const UniqueFd kept = Eventfd();
  ExecSet set({kept.get(), 1 << 20});
  EXPECT_THAT(set.Arm(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("fd 1048576")));
  EXPECT_TRUE(HasCloexec(kept.get()));
}

// Descriptors by number, as a program finds them after execve: nobody owns them yet.
struct Inherited {
  Inherited() {
    FdTable table;
    EXPECT_THAT(table.Add("a", 0, FdKind::kEventfd, Eventfd()), IsOk());
    EXPECT_THAT(table.Add("b", 1, FdKind::kEventfd, Eventfd()), IsOk());
    auto described = DescribeExecFds(table);
    EXPECT_THAT(described, IsOk());
    manifest = *described;
    for (auto& fd : *manifest.mutable_fds()) {
      numbers.push_back(::fcntl(static_cast<int>(fd.number()), F_DUPFD, 3));
      fd.set_number(static_cast<uint32_t>(numbers.back()));
    }
  }
  void ExpectOpenAndClose() {
    for (const int fd : numbers) EXPECT_EQ(::close(fd), 0) << "fd " << fd << " was closed by an error";
  }
  v1::ExecManifest manifest;
  std::vector<int> numbers;
};

TEST(AdoptExecFdsTest, FindsThemAgainAndSetsCloexec) {
  Inherited inherited;
  CPR_ASSERT_OK_AND_ASSIGN(FdTable table, AdoptExecFds(inherited.manifest));
  EXPECT_EQ(table.Find("a", 0), inherited.numbers[0]);
  EXPECT_TRUE(HasCloexec(inherited.numbers[1]));
  CPR_ASSERT_OK_AND_ASSIGN(const FdTable copy, table.Dup());
  EXPECT_NE(copy.Find("a", 0), table.Find("a", 0));
}

TEST(AdoptExecFdsTest, AnotherFileUnderTheNumberIsRefusedAndNothingIsClosed) {
  Inherited inherited;
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd file, OpenFile("/dev/null", O_RDWR));
  ASSERT_GE(::dup2(file.get(), inherited.numbers[1]), 0);
  EXPECT_THAT(AdoptExecFds(inherited.manifest),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("fd 'b' instance 1: number")));
  EXPECT_TRUE(HasCloexec(inherited.numbers[0]));
  inherited.ExpectOpenAndClose();
}

TEST(AdoptExecFdsTest, AnotherKindIsRefusedAndNothingIsClosed) {
  Inherited inherited;
  inherited.manifest.mutable_manifest()->mutable_entries(1)->set_kind(v1::FD_KIND_TAP);
  EXPECT_THAT(AdoptExecFds(inherited.manifest),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'b' instance 1: is not a tap")));
  inherited.ExpectOpenAndClose();
}

TEST(AdoptExecFdsTest, AClosedNumberIsNamed) {
  Inherited inherited;
  const int last = inherited.numbers.back();
  inherited.numbers.pop_back();
  ASSERT_EQ(::close(last), 0);
  EXPECT_THAT(AdoptExecFds(inherited.manifest),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("did not come over")));
  inherited.ExpectOpenAndClose();
}

TEST(AdoptExecFdsTest, RubbishIsRefused) {
  const auto refused = [](auto change, const std::string& why) {
    Inherited inherited;
    change(inherited.manifest);
    EXPECT_THAT(AdoptExecFds(inherited.manifest), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(why)));
    inherited.ExpectOpenAndClose();
  };
  refused([](v1::ExecManifest& m) { m.mutable_fds(1)->set_number(m.fds(0).number()); }, "twice");
  refused([](v1::ExecManifest& m) { m.mutable_fds(1)->set_number(1); }, "fd number 1, which cannot be");
  refused([](v1::ExecManifest& m) { m.mutable_fds(1)->set_number(0x80000000u); }, "cannot be");
  refused([](v1::ExecManifest& m) { m.mutable_fds()->RemoveLast(); }, "lists 2 fds, 1 came");
  refused([](v1::ExecManifest& m) { m.mutable_manifest()->mutable_entries(0)->set_fd_index(7); }, "past the end");
}

}  // namespace
}  // namespace cpr
