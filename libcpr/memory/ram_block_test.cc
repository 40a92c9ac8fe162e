#include "libcpr/memory/ram_block.h"

#include <fcntl.h>
#include <sys/mman.h>
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
using ::testing::HasSubstr;

constexpr uint64_t kMib = 1 << 20;

UniqueFd SealedMemfd(uint64_t size_bytes, int seals = F_SEAL_SHRINK | F_SEAL_GROW) {
  UniqueFd fd(::memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

RamBlockLayout MemfdLayout() {
  return {.name = "ram0", .size_bytes = kMib, .backing = RamBacking::kMemfd, .shared = true};
}

struct TempFile {
  explicit TempFile(uint64_t size_bytes) {
    path = ::testing::TempDir() + "/ram_block_test.XXXXXX";
    fd.Reset(::mkostemp(path.data(), O_CLOEXEC));
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
  }
  ~TempFile() { ::unlink(path.c_str()); }
  std::string path;
  UniqueFd fd;
};

TEST(RamBlockTest, ASharedMemfdSurvivesTheProcessButNotAReboot) {
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, RamBlock::Create(MemfdLayout(), SealedMemfd(kMib)));
  EXPECT_TRUE(block.SurvivesProcess());
  EXPECT_FALSE(block.SurvivesReboot());
}

TEST(RamBlockTest, AMemfdThatCanShrinkIsRefused) {
  EXPECT_THAT(RamBlock::Create(MemfdLayout(), SealedMemfd(kMib, F_SEAL_GROW)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'ram0': the memfd lacks F_SEAL_SHRINK")));
}

TEST(RamBlockTest, AShortFileIsRefusedWithBothSizes) {
  EXPECT_THAT(RamBlock::Create(MemfdLayout(), SealedMemfd(kMib / 2)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("has 524288 bytes, 1048576 are needed")));
}

TEST(RamBlockTest, ADescriptorOfAnotherKindIsRefused) {
  EXPECT_THAT(RamBlock::Create(MemfdLayout(), UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC))),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not of kind memfd")));
  EXPECT_THAT(RamBlock::Create(MemfdLayout(), UniqueFd()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("needs a descriptor")));
}

TEST(RamBlockTest, EveryBadNumberIsRefused) {
  const auto refused = [](auto change) {
    RamBlockLayout layout = MemfdLayout();
    change(layout);
    EXPECT_THAT(RamBlock::Create(std::move(layout), SealedMemfd(kMib)),
                StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
  };
  refused([](RamBlockLayout& l) { l.name.clear(); });
  refused([](RamBlockLayout& l) { l.name.assign(256, 'x'); });
  refused([](RamBlockLayout& l) { l.gpa = 1; });
  refused([](RamBlockLayout& l) { l.gpa = RamBlock::kMaxAddress - 4096; });
  refused([](RamBlockLayout& l) { l.gpa = ~uint64_t{4095}; });
  refused([](RamBlockLayout& l) { l.size_bytes = 0; });
  refused([](RamBlockLayout& l) { l.size_bytes = 4097; });
  refused([](RamBlockLayout& l) { l.size_bytes = ~uint64_t{4095}; });
  refused([](RamBlockLayout& l) { l.page_size_bytes = 0; });
  refused([](RamBlockLayout& l) { l.page_size_bytes = 12288; });
  refused([](RamBlockLayout& l) { l.offset_bytes = 1; });
  refused([](RamBlockLayout& l) { l.offset_bytes = ~uint64_t{4095}; });
  refused([](RamBlockLayout& l) { l.path = "/x"; });
  refused([](RamBlockLayout& l) { l.backing = RamBacking::kUnspecified; });
  refused([](RamBlockLayout& l) { l.backing = static_cast<RamBacking>(9); });
  refused([](RamBlockLayout& l) { l.backing = RamBacking::kAnonymous; });
}

TEST(RamBlockTest, TwoBlocksShareOneFile) {
  const UniqueFd fd = SealedMemfd(2 * kMib);
  RamBlockLayout high = MemfdLayout();
  high.name = "ram0.high";
  high.gpa = uint64_t{4} << 30;
  high.offset_bytes = kMib;
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, RamBlock::Create(high, UniqueFd(::dup(fd.get()))));
  EXPECT_EQ(block.offset_bytes(), kMib);
  high.offset_bytes = 2 * kMib;
  EXPECT_THAT(RamBlock::Create(high, UniqueFd(::dup(fd.get()))),
              StatusIs(absl::StatusCode::kFailedPrecondition, ::testing::_));
}

TEST(RamBlockTest, ANamedFileRoundTripsAndStaysInPlace) {
  TempFile file(kMib);
  const RamBlockLayout layout{.name = "ram0",
                              .gpa = 0x100000,
                              .size_bytes = kMib,
                              .backing = RamBacking::kFile,
                              .shared = true,
                              .path = file.path};
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, RamBlock::Create(layout, UniqueFd(::dup(file.fd.get()))));
  EXPECT_TRUE(block.InPlace(/*ignore_shared=*/true));
  EXPECT_FALSE(block.InPlace(/*ignore_shared=*/false));
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock again, RamBlock::FromProto(block.ToProto(), UniqueFd(::dup(file.fd.get()))));
  EXPECT_EQ(again.ToProto().SerializeAsString(), block.ToProto().SerializeAsString());
}

TEST(RamBlockTest, AnotherFileOfTheSameSizeIsRefusedByName) {
  TempFile file(kMib), other(kMib);
  const RamBlockLayout layout{
      .name = "ram0", .size_bytes = kMib, .backing = RamBacking::kFile, .shared = true, .path = file.path};
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, RamBlock::Create(layout, UniqueFd(::dup(file.fd.get()))));
  EXPECT_THAT(RamBlock::FromProto(block.ToProto(), UniqueFd(::dup(other.fd.get()))),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(file.path + " is not the file")));
}

TEST(RamBlockTest, PrivateAndAnonymousBlocksSurviveNothing) {
  RamBlockLayout layout = MemfdLayout();
  layout.shared = false;
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock with_fd, RamBlock::Create(layout, SealedMemfd(kMib, 0)));
  EXPECT_FALSE(with_fd.SurvivesProcess());
  layout.backing = RamBacking::kAnonymous;
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock without, RamBlock::Create(layout, UniqueFd()));
  EXPECT_FALSE(without.SurvivesProcess());
  EXPECT_THAT(without.DupFd(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no descriptor")));
  EXPECT_THAT(RamBlock::FromProto(without.ToProto(), UniqueFd()), IsOk());
}

TEST(RamBlockTest, ADuplicateIsTheSameBlockOnADescriptorOfItsOwn) {
  const RamBlockLayout layout = {.name = "ram0", .gpa = kMib, .size_bytes = kMib, .backing = RamBacking::kMemfd};
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock block, RamBlock::Create(layout, SealedMemfd(kMib)));
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock copy, block.Dup());
  EXPECT_EQ(copy.ToProto().SerializeAsString(), block.ToProto().SerializeAsString());
  EXPECT_GE(copy.fd(), 0);
  EXPECT_NE(copy.fd(), block.fd());
  CPR_ASSERT_OK_AND_ASSIGN(
      const RamBlock anonymous,
      RamBlock::Create({.name = "ram0", .size_bytes = kMib, .backing = RamBacking::kAnonymous}, UniqueFd()));
  CPR_ASSERT_OK_AND_ASSIGN(const RamBlock anonymous_copy, anonymous.Dup());
  EXPECT_EQ(anonymous_copy.fd(), -1);
}

TEST(RamBlockTest, ADescriptorFullOfRubbishIsAnError) {
  v1::RamBlockDescriptor descriptor;
  EXPECT_FALSE(RamBlock::FromProto(descriptor, SealedMemfd(kMib)).ok());
  descriptor.set_name("x");
  descriptor.set_backing(static_cast<v1::RamBacking>(77));
  EXPECT_THAT(RamBlock::FromProto(descriptor, SealedMemfd(kMib)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("backing 77")));
}

TEST(FileIdentityTest, AFileMadeAnewIsAnotherEvenUnderTheSameInode) {
  TempFile file(kMib);
  CPR_ASSERT_OK_AND_ASSIGN(const FileIdentity identity, IdentifyFile(file.fd.get()));
  FileIdentity other = identity;
  EXPECT_TRUE(identity.Matches(other));
  other.birth_time_ns = identity.birth_time_ns + 1;
  EXPECT_EQ(identity.Matches(other), identity.birth_time_ns == 0) << "a birth time that is not known decides nothing";
  other = identity;
  other.rdev_major = 1;
  EXPECT_FALSE(identity.Matches(other)) << "a device is no file";
}

TEST(FileIdentityTest, OnlyDaxHasDaxAttributes) {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_THAT(DaxAttribute(null.get(), "size"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a DAX device")));
  CPR_ASSERT_OK_AND_ASSIGN(const FileIdentity identity, IdentifyFile(null.get()));
  EXPECT_EQ(identity.rdev_minor, 3u);
  EXPECT_EQ(identity.size_bytes, 0u);
}

}  // namespace
}  // namespace cpr
