#include "tests/disk_log/disk_log.h"

#include <sys/mman.h>

#include <cstring>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr uint64_t kSector = 512;
constexpr size_t kPage = 4096;
constexpr uint64_t kNoFlag = 0, kFlush = 1, kFua = 2, kDiscard = 4;

// A log as QEMU writes one.
class DiskLogTest : public ::testing::Test {
 protected:
  void Add(uint64_t page, const std::string& data, uint64_t flags = kNoFlag) {
    Append({page * kPage / kSector, data.size() / kSector, flags, data.size()});
    log_ += data;
    ++entries_;
  }
  void Flush() { Add(0, "", kFlush); }
  void Discard(uint64_t page) {
    Append({page * kPage / kSector, kPage / kSector, kDiscard, 0});
    ++entries_;
  }
  // What a disk of four pages has in each: the letter that was written there, or '.'.
  std::string After(size_t count, uint64_t seed = 0) {
    const UniqueFd file = Memfd(Sector({0x6a736677736872, 1, entries_, kSector}) + log_);
    const auto log = DiskLog::Read(file.get());
    EXPECT_THAT(log, IsOk());
    const UniqueFd disk = Memfd(std::string(4 * kPage, '\0'));
    EXPECT_THAT(log->Replay(count, seed, disk.get()), IsOk());
    std::string letters(4, '\0');
    for (size_t page = 0; page < letters.size(); ++page) {
      EXPECT_THAT(PreadAll(disk.get(), &letters[page], 1, page * kPage), IsOk());
      if (letters[page] == '\0') letters[page] = '.';
    }
    return letters;
  }
  static UniqueFd Memfd(const std::string& bytes) {
    UniqueFd fd(::memfd_create("log", MFD_CLOEXEC));
    EXPECT_THAT(PwriteAll(fd.get(), bytes, 0), IsOk());
    return fd;
  }
  static std::string Sector(const std::vector<uint64_t>& words) {
    std::string sector(kSector, '\0');
    std::memcpy(sector.data(), words.data(), words.size() * sizeof(words[0]));
    return sector;
  }
  void Append(const std::vector<uint64_t>& words) { log_ += Sector(words); }

  std::string log_;
  uint64_t entries_ = 0;
};

std::string Page(char letter) { return std::string(kPage, letter); }

TEST_F(DiskLogTest, DiskHoldsWhatWasWrittenUntilThen) {
  Add(0, Page('a') + Page('b'));
  Add(1, Page('c'));
  Discard(0);
  Add(3, Page('d'));
  EXPECT_EQ(After(0), "....");
  EXPECT_EQ(After(1), "ab..");
  EXPECT_EQ(After(2), "ac..");
  EXPECT_EQ(After(3), ".c..");
  EXPECT_EQ(After(4), ".c.d");
  EXPECT_EQ(After(5), ".c.d") << "there is no more";
}

TEST_F(DiskLogTest, OnlyWhatWasNotFlushedMayBeLost) {
  Add(0, Page('a'));
  Flush();
  Add(1, Page('b') + Page('c'));
  Add(3, Page('d'), kFua);
  std::set<std::string> seen;
  for (uint64_t seed = 1; seed < 50; ++seed) {
    seen.insert(After(4, seed));
    EXPECT_EQ(After(4, seed), After(4, seed)) << "a moment that cannot be looked at again";
  }
  EXPECT_THAT(seen, ::testing::UnorderedElementsAre("a..d", "ab.d", "a.cd", "abcd"));
  EXPECT_EQ(After(4, 0), "abcd");
}

TEST_F(DiskLogTest, FlushKeepsAllBeforeIt) {
  Add(0, Page('a'));
  Add(1, Page('b'));
  Flush();
  for (uint64_t seed = 1; seed < 20; ++seed) EXPECT_EQ(After(3, seed), "ab..");
}

TEST_F(DiskLogTest, OtherFilesAndCutLogsAreRefused) {
  const UniqueFd other = Memfd(Page('x'));
  EXPECT_THAT(DiskLog::Read(other.get()), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("no log")));
  const UniqueFd cut = Memfd(Sector({0x6a736677736872, 1, 3, kSector}));
  EXPECT_THAT(DiskLog::Read(cut.get()), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("ended")));
}

}  // namespace
}  // namespace cpr
