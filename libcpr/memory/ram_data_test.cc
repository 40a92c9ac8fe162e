#include "libcpr/memory/ram_data.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
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
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kPage = kRamPageBytes;
constexpr uint64_t kPages = 2048;

MATCHER_P2(Pages, begin, end, "") {
  return arg.begin == static_cast<uint64_t>(begin) * kPage && arg.end == static_cast<uint64_t>(end) * kPage;
}

// A memfd in which pages have content, and a mapping of it from its second page on.
struct Memfd {
  Memfd() : fd(::memfd_create("ram", MFD_CLOEXEC)) {
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>((kPages + 2) * kPage)), 0);
  }
  void Put(uint64_t page) const { EXPECT_THAT(PwriteAll(fd.get(), "x", (page + 1) * kPage), IsOk()); }
  Mapping Map(Mapping::Sharing sharing) const {
    return *Mapping::Create(fd.get(), kPage, kPages * kPage, Mapping::Access::kReadWrite, sharing);
  }
  int64_t AllocatedBlocks() const {
    struct stat info;
    return ::fstat(fd.get(), &info) == 0 ? info.st_blocks : -1;
  }
  UniqueFd fd;
};

std::vector<RamRange> AllOf(const MappedRam& ram) { return RamDataCursor(ram).Within(0, ram.size_bytes); }

TEST(RamDataCursorTest, SharedRamIsWhatItsFileHas) {
  const Memfd memfd;
  for (const uint64_t page : {uint64_t{0}, uint64_t{7}, uint64_t{8}, kPages - 1}) memfd.Put(page);
  memfd.Put(kPages);  // another block's
  const Mapping mapping = memfd.Map(Mapping::Sharing::kShared);
  const MappedRam ram = {mapping.data(), kPages * kPage, memfd.fd.get(), kPage};
  EXPECT_THAT(AllOf(ram), ElementsAre(Pages(0, 1), Pages(7, 9), Pages(kPages - 1, kPages)));
}

TEST(RamDataCursorTest, ItGoesOnWhereItWas) {
  const Memfd memfd;
  for (uint64_t page = 4; page < 12; ++page) memfd.Put(page);
  const Mapping mapping = memfd.Map(Mapping::Sharing::kShared);
  RamDataCursor cursor({mapping.data(), kPages * kPage, memfd.fd.get(), kPage});
  EXPECT_THAT(cursor.Within(0, 2 * kPage), IsEmpty());
  EXPECT_EQ(cursor.DataFrom(2 * kPage), 4 * kPage);
  EXPECT_THAT(cursor.Within(2 * kPage, 6 * kPage), ElementsAre(Pages(4, 6)));
  EXPECT_THAT(cursor.Within(6 * kPage, 8 * kPage), ElementsAre(Pages(6, 8)));
  EXPECT_THAT(cursor.Within(8 * kPage, 100 * kPage), ElementsAre(Pages(8, 12)));
  EXPECT_EQ(cursor.DataFrom(100 * kPage), kPages * kPage);
  EXPECT_THAT(cursor.Within(100 * kPage, kPages * kPage), IsEmpty());
}

TEST(RamDataCursorTest, WithoutAFileSharedRamIsAllData) {
  const Mapping mapping = *Mapping::CreateAnonymous(kPages * kPage);
  EXPECT_THAT(AllOf({mapping.data(), kPages * kPage}), ElementsAre(Pages(0, kPages)));
}

TEST(RamDataCursorTest, AnonymousRamIsWhatWasTouched) {
  const Mapping mapping = *Mapping::CreateAnonymous(kPages * kPage);
  ASSERT_EQ(::madvise(mapping.data(), mapping.size_bytes(), MADV_NOHUGEPAGE), 0);
  for (const uint64_t page : {uint64_t{3}, uint64_t{4}, uint64_t{1000}, kPages - 1}) mapping.data()[page * kPage] = 1;
  const MappedRam ram = {.data = mapping.data(), .size_bytes = kPages * kPage, .is_private = true};
  EXPECT_THAT(AllOf(ram), ElementsAre(Pages(3, 5), Pages(1000, 1001), Pages(kPages - 1, kPages)));
}

TEST(RamDataCursorTest, PrivateRamOfAFileIsBoth) {
  const Memfd memfd;
  for (const uint64_t page : {5, 6, 30}) memfd.Put(page);
  const int64_t allocated = memfd.AllocatedBlocks();
  const Mapping mapping = memfd.Map(Mapping::Sharing::kPrivate);
  for (const uint64_t page : {1, 6, 7, 40}) mapping.data()[page * kPage + 1] = 1;
  const MappedRam ram = {mapping.data(), kPages * kPage, memfd.fd.get(), kPage, /*is_private=*/true};
  EXPECT_THAT(AllOf(ram), ElementsAre(Pages(1, 2), Pages(5, 8), Pages(30, 31), Pages(40, 41)));
  // Writing to page 1, 7 and 40 gave the mapping pages of its own, and the file zeros for them to be copied from.
  EXPECT_LE(memfd.AllocatedBlocks(), allocated + 3 * 8) << "asking made pages";
}

TEST(NextRunTest, SmallGapsAreWrittenAlong) {
  const Mapping mapping = *Mapping::CreateAnonymous(kPages * kPage);
  const MappedRam ram = {mapping.data(), kPages * kPage};
  for (const uint64_t page : {2, 10, 100}) mapping.data()[page * kPage + 4095] = 1;
  EXPECT_THAT(NextRun(ram, {0, kPages * kPage}), Pages(2, 11));
  EXPECT_THAT(NextRun(ram, {11 * kPage, kPages * kPage}), Pages(100, 101));
  EXPECT_EQ(NextRun(ram, {101 * kPage, kPages * kPage}).size_bytes(), 0u);
}

}  // namespace
}  // namespace cpr
