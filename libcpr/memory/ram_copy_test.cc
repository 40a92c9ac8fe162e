#include "libcpr/memory/ram_copy.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::HasSubstr;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kRamBytes = 32 << 20;
constexpr uint64_t kAreaOffset = 1 << 20;

// RAM on a memfd whose first pages belong to another block.
struct Ram {
  explicit Ram(uint64_t size_bytes = kRamBytes) : fd(::memfd_create("ram", MFD_CLOEXEC)) {
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes + 8 * kPage)), 0);
    mapping = *Mapping::Create(fd.get(), 8 * kPage, size_bytes);
  }
  MappedRam Mapped() const { return {mapping.data(), mapping.size_bytes(), fd.get(), 8 * kPage}; }
  void Put(uint64_t at, char value, uint64_t count = 1) { std::memset(mapping.data() + at, value, count); }
  uint64_t AllocatedBytes() const {
    struct stat st;
    return ::fstat(fd.get(), &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
  }
  UniqueFd fd;
  Mapping mapping;
};

UniqueFd OutFile() { return UniqueFd(::memfd_create("out", MFD_CLOEXEC)); }

bool SameBytes(const Ram& a, const Ram& b) {
  return std::memcmp(a.mapping.data(), b.mapping.data(), a.mapping.size_bytes()) == 0;
}

// Pages at both ends, a run longer than an extent, single pages close together and far apart.
void Fill(Ram& ram) {
  ram.Put(0, 'a');
  ram.Put(6 * kMaxRamExtentBytes - 100, 'b', kMaxRamExtentBytes + 300);
  ram.Put(100 * kPage, 'c');
  ram.Put(103 * kPage + 4095, 'd');
  ram.Put(kRamBytes - 1, 'e');
}

TEST(RamCopyTest, WhatGoesOutComesBack) {
  Ram ram, back;
  Fill(ram);
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, CopyRamOut(ram.Mapped(), 0, kRamBytes, out.get(), kAreaOffset));
  ASSERT_THAT(CopyRamIn(extents, out.get(), back.Mapped(), /*ram_is_zero=*/true), IsOk());
  EXPECT_TRUE(SameBytes(ram, back));
}

TEST(RamCopyTest, HolesAreNeitherReadNorWritten) {
  Ram ram, back;
  Fill(ram);
  const uint64_t allocated = ram.AllocatedBytes();
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, CopyRamOut(ram.Mapped(), 0, kRamBytes, out.get(), kAreaOffset));
  EXPECT_EQ(ram.AllocatedBytes(), allocated) << "saving changed the source";
  ASSERT_THAT(CopyRamIn(extents, out.get(), back.Mapped(), /*ram_is_zero=*/false), IsOk());
  EXPECT_LE(back.AllocatedBytes(), allocated);
  struct stat st;
  ASSERT_EQ(::fstat(out.get(), &st), 0);
  EXPECT_LE(static_cast<uint64_t>(st.st_blocks) * 512, allocated);
}

TEST(RamCopyTest, ZeroPagesAreSkippedWithoutAFileToAsk) {
  Ram ram, back;
  Fill(ram);
  MappedRam mapped = ram.Mapped();
  mapped.fd = -1;
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, CopyRamOut(mapped, 0, kRamBytes, out.get(), 0));
  uint64_t written = 0;
  for (const RamExtent& extent : extents) written += extent.size_bytes;
  EXPECT_LT(written, kMaxRamExtentBytes + 20 * kPage);
  ASSERT_THAT(CopyRamIn(extents, out.get(), back.Mapped(), true), IsOk());
  EXPECT_TRUE(SameBytes(ram, back));
}

TEST(RamCopyTest, PartsCopiedApartMakeTheWhole) {
  Ram ram, back;
  Fill(ram);
  const UniqueFd out = OutFile();
  std::vector<RamExtent> all;
  for (uint64_t at = 0; at < kRamBytes; at += kRamBytes / 4) {
    CPR_ASSERT_OK_AND_ASSIGN(const auto part, CopyRamOut(ram.Mapped(), at, at + kRamBytes / 4, out.get(), kAreaOffset));
    all.insert(all.end(), part.begin(), part.end());
  }
  ASSERT_THAT(CopyRamIn(all, out.get(), back.Mapped(), true), IsOk());
  EXPECT_TRUE(SameBytes(ram, back));
}

TEST(RamCopyTest, StaleRamIsCleared) {
  Ram ram, back;
  Fill(ram);
  back.Put(50 * kPage, 'x', 10);
  back.Put(kRamBytes - 2 * kPage, 'x');
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, CopyRamOut(ram.Mapped(), 0, kRamBytes, out.get(), 0));
  ASSERT_THAT(CopyRamIn(extents, out.get(), back.Mapped(), /*ram_is_zero=*/false), IsOk());
  EXPECT_TRUE(SameBytes(ram, back));
}

TEST(RamCopyTest, EmptyRamHasNoExtents) {
  const Ram ram;
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, CopyRamOut(ram.Mapped(), 0, kRamBytes, out.get(), 0));
  EXPECT_TRUE(extents.empty());
}

TEST(RamCopyTest, AnAlteredByteIsFound) {
  Ram ram, back;
  Fill(ram);
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, CopyRamOut(ram.Mapped(), 0, kRamBytes, out.get(), 0));
  ASSERT_THAT(PwriteAll(out.get(), "!", 5), IsOk());
  EXPECT_THAT(CopyRamIn(extents, out.get(), back.Mapped(), true),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("offset 0 (4096 bytes)")));
}

TEST(RamCopyTest, ACutFileIsFoundBeforeRamIsTouched) {
  Ram ram;
  const Ram back;
  Fill(ram);
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, CopyRamOut(ram.Mapped(), 0, kRamBytes, out.get(), 0));
  ASSERT_EQ(::ftruncate(out.get(), kRamBytes - 1), 0);
  EXPECT_THAT(CopyRamIn(extents, out.get(), back.Mapped(), true),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("past the end of the file")));
  EXPECT_EQ(back.AllocatedBytes(), 0u);
}

TEST(RamCopyTest, EveryBadExtentIsRefused) {
  const RamExtent good{.ram_offset_bytes = kPage, .size_bytes = kPage, .file_offset_bytes = 0, .crc32c = 0};
  ASSERT_THAT(ValidateRamExtents({good}, 4 * kPage, kPage), IsOk());
  const auto refused = [&](auto change) {
    RamExtent extent = good;
    change(extent);
    EXPECT_THAT(ValidateRamExtents({extent}, 4 * kPage, kPage), StatusIs(absl::StatusCode::kDataLoss, _));
  };
  refused([](RamExtent& e) { e.size_bytes = 0; });
  refused([](RamExtent& e) { e.size_bytes = 1; });
  refused([](RamExtent& e) { e.size_bytes = kMaxRamExtentBytes + kPage; });
  refused([](RamExtent& e) { e.size_bytes = ~uint64_t{4095}; });
  refused([](RamExtent& e) { e.ram_offset_bytes = 4 * kPage; });
  refused([](RamExtent& e) { e.ram_offset_bytes = ~uint64_t{4095}; });
  refused([](RamExtent& e) { e.ram_offset_bytes = 1; });
  refused([](RamExtent& e) { e.file_offset_bytes = 1; });
  refused([](RamExtent& e) { e.file_offset_bytes = ~uint64_t{0}; });
  EXPECT_THAT(ValidateRamExtents({good, good}, 4 * kPage, kPage),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("out of order")));
}

TEST(RamCopyTest, AFullDiskIsAnError) {
  Ram ram;
  Fill(ram);
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd full, OpenFile("/dev/full", O_RDWR));
  EXPECT_THAT(CopyRamOut(ram.Mapped(), 0, kRamBytes, full.get(), 0), StatusIs(absl::StatusCode::kResourceExhausted, _));
}

TEST(RamCopyTest, TheUserCanCallItOff) {
  Ram ram;
  Fill(ram);
  const UniqueFd out = OutFile();
  int calls = 0;
  const auto cancel = [&](uint64_t) { return ++calls < 2; };
  EXPECT_THAT(CopyRamOut(ram.Mapped(), 0, kRamBytes, out.get(), 0, cancel), StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_EQ(calls, 2);
}

TEST(RamCopyTest, ARangeOutsideTheBlockIsRefused) {
  const Ram ram;
  EXPECT_THAT(CopyRamOut(ram.Mapped(), 0, kRamBytes + kPage, 1, 0), StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(CopyRamOut(ram.Mapped(), 1, kPage, 1, 0), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST(RamExtentTest, RoundTripsThroughProto) {
  const RamExtent extent{.ram_offset_bytes = 1, .size_bytes = 2, .file_offset_bytes = 3, .crc32c = 4};
  const RamExtent back = RamExtentFromProto(RamExtentToProto(extent));
  EXPECT_EQ(std::memcmp(&extent, &back, sizeof(uint64_t) * 3 + sizeof(uint32_t)), 0);
}

}  // namespace
}  // namespace cpr
