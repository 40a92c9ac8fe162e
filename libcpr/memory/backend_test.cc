#include "libcpr/memory/backend.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMib = 1 << 20;

class BackendTest : public ::testing::Test {
 protected:
  BackendTest() { EXPECT_NE(::mkdtemp(folder_.data()), nullptr); }
  ~BackendTest() override {
    ::unlink(path_.c_str());
    ::rmdir(folder_.c_str());
  }
  off_t FileSize() const {
    struct stat st;
    return ::stat(path_.c_str(), &st) == 0 ? st.st_size : -1;
  }
  void MakeFile(off_t size) {
    const UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(fd.get(), size), 0);
  }
  std::string folder_ = ::testing::TempDir() + "/backend.XXXXXX";
  std::string path_;
  void SetUp() override { path_ = folder_ + "/ram"; }
};

TEST_F(BackendTest, AMemfdIsSealedAndMakesBlocksRoundTheHole) {
  CPR_ASSERT_OK_AND_ASSIGN(const RamBackend backend, CreateMemfdBackend({.name = "ram0", .size_bytes = 4 * kMib}));
  EXPECT_NE(::ftruncate(backend.fd.get(), 0), 0) << "not sealed";
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock low, CreateRamBlock(backend, "low", 0, 0, 3 * kMib));
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock high, CreateRamBlock(backend, "high", uint64_t{4} << 30, 3 * kMib, kMib));
  EXPECT_TRUE(low.SurvivesProcess() && high.SurvivesProcess());
  CPR_ASSERT_OK_AND_ASSIGN(const Mapping all, MapRamBackend(backend));
  CPR_ASSERT_OK_AND_ASSIGN(const Mapping part, MapRamBlock(high));
  all.data()[3 * kMib] = 42;
  EXPECT_EQ(part.data()[0], 42);
}

TEST_F(BackendTest, BadSizesAreRefusedByName) {
  EXPECT_THAT(CreateMemfdBackend({.name = "ram0", .size_bytes = 0}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'ram0'")));
  EXPECT_THAT(CreateMemfdBackend({.name = "ram0", .size_bytes = 4097}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4097")));
  EXPECT_THAT(CreateMemfdBackend({.size_bytes = kMib, .hugetlb = true, .huge_page_bytes = 3}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("huge page size 3")));
  EXPECT_THAT(CreateAnonymousBackend(1).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("anonymous")));
  EXPECT_THAT(OpenFileBackend({.path = path_, .size_bytes = 1}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(path_)));
  EXPECT_EQ(FileSize(), -1) << "a refused backend left its file";
}

TEST_F(BackendTest, HugePagesAreSeenInThePageSize) {
  const auto backend = CreateMemfdBackend({.size_bytes = 2 * kMib, .hugetlb = true, .huge_page_bytes = 2 * kMib});
  if (!backend.ok()) GTEST_SKIP() << "no huge pages: " << backend.status();
  EXPECT_EQ(backend->page_size_bytes, 2 * kMib);
  EXPECT_FALSE(CreateMemfdBackend({.size_bytes = kMib, .hugetlb = true, .huge_page_bytes = 2 * kMib}).ok());
}

TEST_F(BackendTest, AMissingFileIsMadeAndFoundAgain) {
  CPR_ASSERT_OK_AND_ASSIGN(const RamBackend backend, OpenFileBackend({.path = path_, .size_bytes = kMib}));
  struct stat st;
  ASSERT_EQ(::fstat(backend.fd.get(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_EQ(FileSize(), static_cast<off_t>(kMib));
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, CreateRamBlock(backend, "ram0", 0, 0, kMib));
  EXPECT_TRUE(block.SurvivesReboot());
  EXPECT_THAT(ReopenRamBlock(block.ToProto()), IsOk());
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  EXPECT_THAT(ReopenRamBlock(block.ToProto()),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("'ram0'"), HasSubstr("/ram: No such file"))));
  MakeFile(kMib);
  EXPECT_THAT(ReopenRamBlock(block.ToProto()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is not the file")));
}

TEST_F(BackendTest, AnEmptyFileGrowsAndAnyOtherSizeIsRefusedAndLeft) {
  MakeFile(0);
  EXPECT_THAT(OpenFileBackend({.path = path_, .size_bytes = kMib}).status(), IsOk());
  EXPECT_THAT(OpenFileBackend({.path = path_, .size_bytes = kMib}).status(), IsOk()) << "of the right size now";
  EXPECT_THAT(OpenFileBackend({.path = path_, .size_bytes = 2 * kMib}).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(path_), HasSubstr("has 1048576 bytes, 2097152 are wanted"))));
  EXPECT_EQ(FileSize(), static_cast<off_t>(kMib));
}

TEST_F(BackendTest, AFolderGetsAFileWithoutAName) {
  CPR_ASSERT_OK_AND_ASSIGN(const RamBackend backend, OpenFileBackend({.path = folder_, .size_bytes = kMib}));
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, CreateRamBlock(backend, "ram0", 0, 0, kMib));
  EXPECT_TRUE(block.SurvivesProcess());
  EXPECT_FALSE(block.SurvivesReboot());
  EXPECT_EQ(::rmdir(folder_.c_str()), 0) << "the file has a name";
  ASSERT_EQ(::mkdir(folder_.c_str(), 0700), 0);
}

TEST_F(BackendTest, WhatIsNoMemoryIsRefused) {
  EXPECT_THAT(OpenFileBackend({.path = "/dev/null", .size_bytes = kMib}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/dev/null: not a DAX device")));
  EXPECT_THAT(OpenFileBackend({.path = folder_ + "/no/ram", .size_bytes = kMib}).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/ram")));
  EXPECT_THAT(OpenFileBackend({.path = path_, .size_bytes = kMib, .align_bytes = 3}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("alignment 3")));
}

TEST_F(BackendTest, PreallocateFillsTheFile) {
  CPR_ASSERT_OK_AND_ASSIGN(const RamBackend backend, CreateMemfdBackend({.size_bytes = kMib}));
  CPR_ASSERT_OK_AND_ASSIGN(const Mapping mapping, MapRamBackend(backend));
  ASSERT_THAT(Preallocate(mapping, backend.fd.get(), 0), IsOk());
  struct stat st;
  ASSERT_EQ(::fstat(backend.fd.get(), &st), 0);
  EXPECT_EQ(st.st_blocks * 512, static_cast<blkcnt_t>(kMib));
}

TEST_F(BackendTest, AnonymousMemoryIsPrivate) {
  CPR_ASSERT_OK_AND_ASSIGN(const RamBackend backend, CreateAnonymousBackend(kMib));
  CPR_ASSERT_OK_AND_ASSIGN(const Mapping mapping, MapRamBackend(backend));
  EXPECT_THAT(Preallocate(mapping, -1, 0), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, CreateRamBlock(backend, "ram0", 0, 0, kMib));
  EXPECT_FALSE(block.SurvivesProcess());
  EXPECT_THAT(ReopenRamBlock(block.ToProto()), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no file")));
}

}  // namespace
}  // namespace cpr
