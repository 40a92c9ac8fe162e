#include "libcpr/memory/ram_copy.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"

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

absl::StatusOr<std::vector<RamExtent>> Out(const MappedRam& ram, int fd, uint64_t file_offset_bytes,
                                           const RamCopyOptions& options = {}) {
  auto copy = RamCopyOut::Start({{"ram", ram, file_offset_bytes}}, fd, options);
  if (!copy.ok()) return copy.status();
  if (const absl::Status status = (*copy)->Finish(); !status.ok()) return status;
  EXPECT_EQ((*copy)->done_bytes(), ram.size_bytes);
  return (*copy)->TakeExtents()[0];
}

absl::Status In(const std::vector<RamExtent>& extents, int fd, const MappedRam& ram, bool is_zero,
                const RamCopyOptions& options = {}) {
  auto copy = RamCopyIn::Start({{"ram", ram, extents, is_zero}}, fd, options);
  if (!copy.ok()) return copy.status();
  const absl::Status status = (*copy)->Finish();
  EXPECT_TRUE(!status.ok() || (*copy)->done_bytes() == ram.size_bytes);
  return status;
}

bool SameBytes(const Ram& a, const Ram& b) {
  return std::memcmp(a.mapping.data(), b.mapping.data(), a.mapping.size_bytes()) == 0;
}

bool SameExtent(const RamExtent& a, const RamExtent& b) {
  return a.ram_offset_bytes == b.ram_offset_bytes && a.size_bytes == b.size_bytes &&
         a.file_offset_bytes == b.file_offset_bytes && a.crc32c == b.crc32c;
}

bool SameExtents(const std::vector<RamExtent>& a, const std::vector<RamExtent>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), SameExtent);
}

// Pages at both ends, a run longer than an extent, single pages close together and far apart.
void Fill(Ram& ram) {
  ram.Put(0, 'a');
  ram.Put(6 * kMaxRamExtentBytes - 100, 'b', kMaxRamExtentBytes + 300);
  ram.Put(100 * kPage, 'c');
  ram.Put(103 * kPage + 4095, 'd');
  ram.Put(kRamBytes - 1, 'e');
}

// Every combination of what an embedder can choose.
class RamCopyOptionsTest : public ::testing::TestWithParam<std::tuple<unsigned, bool>> {
 protected:
  RamCopyOptions options() const { return {.threads = std::get<0>(GetParam()), .direct = std::get<1>(GetParam())}; }
  const cpr::testing::TempFolder folder_;
};

TEST_P(RamCopyOptionsTest, WhatGoesOutToADiskComesBack) {
  Ram ram, back;
  Fill(ram);
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd out, OpenFile(folder_.File("out"), O_RDWR | O_CREAT));
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(ram.Mapped(), out.get(), kAreaOffset, options()));
  EXPECT_THAT(ValidateRamExtents(extents, kRamBytes, kAreaOffset + kRamBytes), IsOk()) << "ascending";
  ASSERT_THAT(In(extents, out.get(), back.Mapped(), /*is_zero=*/true, options()), IsOk());
  EXPECT_TRUE(SameBytes(ram, back));
}

TEST_P(RamCopyOptionsTest, ItIsTheSameFileWhoeverCopies) {
  Ram ram;
  Fill(ram);
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd out, OpenFile(folder_.File("out"), O_RDWR | O_CREAT));
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(ram.Mapped(), out.get(), kAreaOffset, options()));
  const UniqueFd plain = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto expected,
                           Out(ram.Mapped(), plain.get(), kAreaOffset, {.threads = 1, .direct = false}));
  EXPECT_TRUE(SameExtents(extents, expected));
  std::string bytes(kAreaOffset + kRamBytes, '\0'), expected_bytes = bytes;
  ASSERT_THAT(PreadAll(out.get(), bytes.data(), bytes.size(), 0), IsOk());
  ASSERT_THAT(PreadAll(plain.get(), expected_bytes.data(), bytes.size(), 0), IsOk());
  EXPECT_TRUE(bytes == expected_bytes);
}

TEST_P(RamCopyOptionsTest, AnAlteredByteIsFound) {
  Ram ram, back;
  Fill(ram);
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd out, OpenFile(folder_.File("out"), O_RDWR | O_CREAT));
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(ram.Mapped(), out.get(), 0, options()));
  ASSERT_THAT(PwriteAll(out.get(), "!", 5), IsOk());
  EXPECT_THAT(In(extents, out.get(), back.Mapped(), true, options()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("RAM block 'ram': RAM at offset 0 (4096 bytes)")));
}

TEST_P(RamCopyOptionsTest, StaleRamIsCleared) {
  Ram ram, back;
  Fill(ram);
  back.Put(50 * kPage, 'x', 10);
  back.Put(2 * kMaxRamExtentBytes, 'x', 2 * kMaxRamExtentBytes);
  back.Put(kRamBytes - 2 * kPage, 'x');
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd out, OpenFile(folder_.File("out"), O_RDWR | O_CREAT));
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(ram.Mapped(), out.get(), 0, options()));
  ASSERT_THAT(In(extents, out.get(), back.Mapped(), /*is_zero=*/false, options()), IsOk());
  EXPECT_TRUE(SameBytes(ram, back));
}

INSTANTIATE_TEST_SUITE_P(All, RamCopyOptionsTest, ::testing::Combine(::testing::Values(1u, 2u, 5u), ::testing::Bool()),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param),
                                               std::get<1>(info.param) ? "Direct" : "Buffered");
                         });

TEST(RamCopyTest, HolesAreNeitherReadNorWritten) {
  Ram ram, back;
  Fill(ram);
  const uint64_t allocated = ram.AllocatedBytes();
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(ram.Mapped(), out.get(), kAreaOffset));
  EXPECT_EQ(ram.AllocatedBytes(), allocated) << "saving changed the source";
  ASSERT_THAT(In(extents, out.get(), back.Mapped(), /*is_zero=*/false), IsOk());
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
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(mapped, out.get(), 0));
  uint64_t written = 0;
  for (const RamExtent& extent : extents) written += extent.size_bytes;
  EXPECT_LT(written, kMaxRamExtentBytes + 20 * kPage);
  ASSERT_THAT(In(extents, out.get(), back.Mapped(), true), IsOk());
  EXPECT_TRUE(SameBytes(ram, back));
}

TEST(RamCopyTest, BlocksAreKeptApart) {
  Ram first, second(3 * kMaxRamExtentBytes + 5 * kPage), back_first, back_second(second.mapping.size_bytes());
  Fill(first);
  second.Put(second.mapping.size_bytes() - 1, 'z');
  second.Put(5, 'y');
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto copy,
                           RamCopyOut::Start({{"a", first.Mapped(), 0}, {"b", second.Mapped(), kRamBytes}}, out.get()));
  ASSERT_THAT(copy->Finish(), IsOk());
  const std::vector<std::vector<RamExtent>> extents = copy->TakeExtents();
  ASSERT_EQ(extents.size(), 2u);
  CPR_ASSERT_OK_AND_ASSIGN(const auto back, RamCopyIn::Start({{"a", back_first.Mapped(), extents[0], true},
                                                              {"b", back_second.Mapped(), extents[1], true}},
                                                             out.get()));
  ASSERT_THAT(back->Finish(), IsOk());
  EXPECT_EQ(back->done_bytes(), kRamBytes + second.mapping.size_bytes());
  EXPECT_TRUE(SameBytes(first, back_first));
  EXPECT_TRUE(SameBytes(second, back_second));
}

TEST(RamCopyTest, WhatIsFoundLiesPackedInAStream) {
  Ram first, second, back;
  Fill(first);
  second.Put(5 * kPage, 's', 3 * kPage);
  CPR_ASSERT_OK_AND_ASSIGN(const auto finding,
                           RamCopyOut::StartFinding({{"a", first.Mapped()}, {"b", second.Mapped()}}));
  ASSERT_THAT(finding->Finish(), IsOk());
  const std::vector<std::vector<RamExtent>> extents = finding->TakeExtents();
  std::string stream;
  const Ram* of[] = {&first, &second};
  for (size_t i = 0; i < 2; ++i) {
    for (const RamExtent& extent : extents[i]) {
      EXPECT_EQ(extent.file_offset_bytes, stream.size());
      stream.append(reinterpret_cast<const char*>(of[i]->mapping.data()) + extent.ram_offset_bytes, extent.size_bytes);
    }
  }
  const UniqueFd out = OutFile();
  ASSERT_THAT(PwriteAll(out.get(), stream, 0), IsOk());
  ASSERT_THAT(In(extents[0], out.get(), back.Mapped(), true), IsOk());
  EXPECT_TRUE(SameBytes(first, back));
  ASSERT_THAT(In(extents[1], out.get(), back.Mapped(), false), IsOk());
  EXPECT_TRUE(SameBytes(second, back));
}

TEST(RamCopyTest, EmptyRamHasNoExtents) {
  const Ram ram;
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(ram.Mapped(), out.get(), 0));
  EXPECT_TRUE(extents.empty());
}

TEST(RamCopyTest, ACutFileIsFoundBeforeRamIsTouched) {
  Ram ram;
  const Ram back;
  Fill(ram);
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(ram.Mapped(), out.get(), 0));
  ASSERT_EQ(::ftruncate(out.get(), kRamBytes - 1), 0);
  EXPECT_THAT(In(extents, out.get(), back.Mapped(), true),
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
  EXPECT_THAT(Out(ram.Mapped(), full.get(), 0),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("RAM block 'ram'")));
}

TEST(RamCopyTest, ItCanBeCalledOffAtAnyTime) {
  Ram ram, back;
  ram.Put(0, 'r', kRamBytes);
  const UniqueFd out = OutFile();
  CPR_ASSERT_OK_AND_ASSIGN(const auto extents, Out(ram.Mapped(), out.get(), 0));
  for (const uint64_t after : {uint64_t{0}, kRamBytes / 4, kRamBytes}) {
    CPR_ASSERT_OK_AND_ASSIGN(auto copy_out, RamCopyOut::Start({{"ram", ram.Mapped()}}, out.get()));
    while (copy_out->done_bytes() < after) {
    }
    copy_out.reset();
    CPR_ASSERT_OK_AND_ASSIGN(auto copy_in, RamCopyIn::Start({{"ram", back.Mapped(), extents}}, out.get()));
    while (copy_in->done_bytes() < after) {
    }
  }
  EXPECT_TRUE(SameBytes(ram, back)) << "the last one was called off too late to matter";
}

TEST(RamExtentTest, RoundTripsThroughProto) {
  const RamExtent extent{.ram_offset_bytes = 1, .size_bytes = 2, .file_offset_bytes = 3, .crc32c = 4};
  const RamExtent back = RamExtentFromProto(RamExtentToProto(extent));
  EXPECT_EQ(std::memcmp(&extent, &back, sizeof(uint64_t) * 3 + sizeof(uint32_t)), 0);
}

}  // namespace
}  // namespace cpr
