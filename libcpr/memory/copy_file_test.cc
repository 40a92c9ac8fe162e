#include "libcpr/memory/copy_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_util.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr size_t kPage = 4096;
constexpr size_t kPiece = 1 << 20;

// Where O_DIRECT means something and there is a disk under the page cache.
#define SKIP_ON_TMPFS()                                                                                     \
  do {                                                                                                      \
    struct statfs fs;                                                                                       \
    ASSERT_EQ(::statfs(folder_.path().c_str(), &fs), 0);                                                    \
    if (fs.f_type == TMPFS_MAGIC) GTEST_SKIP() << folder_.path() << " is a tmpfs: it has no disk under it"; \
  } while (0)

class CopyFileTest : public ::testing::Test {
 protected:
  CopyFileTest() : fd_(::open(folder_.File("file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    auto memory = Mapping::CreateAnonymous(2 * kPiece);
    memory_ = *std::move(memory);
    for (size_t at = 0; at < memory_.size_bytes(); ++at) memory_.data()[at] = static_cast<uint8_t>(at * 7 + at / kPage);
  }

  absl::string_view Bytes(size_t at, size_t size_bytes) const {
    return {reinterpret_cast<const char*>(memory_.data()) + at, size_bytes};
  }
  std::string FileBytes(size_t at, size_t size_bytes) const {
    std::string bytes(size_bytes, '\0');
    EXPECT_THAT(PreadAll(fd_.get(), bytes.data(), size_bytes, at), IsOk());
    return bytes;
  }
  size_t FileSize() const {
    struct stat info;
    return ::fstat(fd_.get(), &info) == 0 ? static_cast<size_t>(info.st_size) : 0;
  }
  // How much of the first bytes of the file the page cache holds.
  size_t CachedPages(size_t size_bytes) const {
    auto mapping = Mapping::Create(fd_.get(), 0, size_bytes, Mapping::Access::kRead);
    std::vector<unsigned char> pages(size_bytes / kPage);
    EXPECT_EQ(::mincore(mapping->data(), size_bytes, pages.data()), 0);
    size_t cached = 0;
    for (const unsigned char page : pages) cached += page & 1;
    return cached;
  }

  const cpr::testing::TempFolder folder_{::testing::TempDir()};  // Bazel's lies on a disk; /tmp may be a tmpfs
  const UniqueFd fd_;
  Mapping memory_;
};

TEST_F(CopyFileTest, LargePiecesGoPastThePageCache) {
  SKIP_ON_TMPFS();
  CopyFile file(fd_.get(), CopyFile::Use::kWrite, true);
  if (!file.direct()) GTEST_SKIP() << folder_.path() << ": its file system takes no O_DIRECT";
  file.Lengthen(3 * kPiece);
  ASSERT_THAT(file.Write(Bytes(0, kPiece), 0), IsOk());
  ASSERT_TRUE(file.direct());
  EXPECT_EQ(CachedPages(kPiece), 0u);
  CopyFile back(fd_.get(), CopyFile::Use::kRead, true);
  ASSERT_THAT(back.Read(reinterpret_cast<char*>(memory_.data()) + kPiece, kPiece, 0), IsOk());
  EXPECT_EQ(CachedPages(kPiece), 0u);
  EXPECT_EQ(Bytes(kPiece, kPiece), Bytes(0, kPiece));
}

TEST_F(CopyFileTest, WhatDoesNotSuitADiskGoesThroughThePageCache) {
  CopyFile file(fd_.get(), CopyFile::Use::kWrite, true);
  const bool direct = file.direct();
  ASSERT_THAT(file.Write(Bytes(8, kPiece), 0), IsOk()) << "memory not aligned";
  EXPECT_EQ(FileBytes(0, kPiece), Bytes(8, kPiece));
  ASSERT_THAT(file.Write(Bytes(0, kPiece), 8), IsOk()) << "offset not aligned";
  EXPECT_EQ(FileBytes(8, kPiece), Bytes(0, kPiece));
  ASSERT_THAT(file.Write(Bytes(0, kPiece - 8), 0), IsOk()) << "size not aligned";
  EXPECT_EQ(FileBytes(0, kPiece - 8), Bytes(0, kPiece - 8));
  EXPECT_EQ(file.direct(), direct);
  CopyFile back(fd_.get(), CopyFile::Use::kRead, true);
  std::string bytes(kPiece - 8, '\0');
  ASSERT_THAT(back.Read(bytes.data(), bytes.size(), 0), IsOk());
  EXPECT_EQ(bytes, Bytes(0, kPiece - 8));
}

TEST_F(CopyFileTest, MemoryOutOfReachIsAnErrorAndTheFileGoesOn) {
  const uintptr_t nowhere = reinterpret_cast<uintptr_t>(memory_.data()) + kPiece;
  ASSERT_EQ(::mprotect(reinterpret_cast<void*>(nowhere), kPiece, PROT_NONE), 0);
  CopyFile file(fd_.get(), CopyFile::Use::kWrite, true);
  const bool direct = file.direct();
  EXPECT_EQ(StatusErrno(file.Write(Bytes(kPiece, kPiece), 0)), EFAULT);
  EXPECT_EQ(file.direct(), direct);
  EXPECT_THAT(file.Write(Bytes(0, kPiece), 0), IsOk());
}

TEST_F(CopyFileTest, AFileThatEndsEarlyIsCalledCut) {
  for (const bool direct : {false, true}) {
    for (const size_t size : {kPiece / 2, kPiece - 1, size_t{0}}) {
      ASSERT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(size)), 0);
      CopyFile file(fd_.get(), CopyFile::Use::kRead, direct);
      EXPECT_THAT(file.Read(reinterpret_cast<char*>(memory_.data()), kPiece, 0),
                  StatusIs(absl::StatusCode::kDataLoss, HasSubstr("ended after")));
    }
  }
}

TEST_F(CopyFileTest, TheFileIsNeverShortened) {
  ASSERT_EQ(::ftruncate(fd_.get(), kPiece), 0);
  CopyFile file(fd_.get(), CopyFile::Use::kWrite, true);
  file.Lengthen(kPage);
  EXPECT_EQ(FileSize(), kPiece);
  file.Shorten(kPage);
  EXPECT_EQ(FileSize(), kPiece) << "it was so long before";
}

TEST_F(CopyFileTest, WhatItWasLengthenedByAndDoesNotHoldIsTakenBack) {
  ASSERT_EQ(::ftruncate(fd_.get(), kPage), 0);
  CopyFile file(fd_.get(), CopyFile::Use::kWrite, true);
  file.Lengthen(kPiece);
  file.Lengthen(2 * kPiece);
  const size_t lengthened = FileSize();
  file.Shorten(kPiece + kPage);
  EXPECT_EQ(FileSize(), std::min(lengthened, kPiece + kPage));
  file.Shorten(0);
  EXPECT_EQ(FileSize(), kPage) << "it was so long before";
}

TEST_F(CopyFileTest, WhatThePageCacheHeldIsDroppedOnceWritten) {
  SKIP_ON_TMPFS();
  CopyFile file(fd_.get(), CopyFile::Use::kWrite, false);
  for (size_t at = 0; at < 80 * kPiece; at += kPiece) {
    ASSERT_THAT(file.Write(Bytes(0, kPiece), at), IsOk());
    ASSERT_THAT(file.DoneWriting(kPiece, at), IsOk());
  }
  EXPECT_LT(CachedPages(8 * kPiece), 8 * kPiece / kPage / 2);
  EXPECT_EQ(FileBytes(0, kPiece), Bytes(0, kPiece));
}

TEST_F(CopyFileTest, AFullDiskIsAnError) {
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd full, OpenFile("/dev/full", O_RDWR));
  CopyFile file(full.get(), CopyFile::Use::kWrite, true);
  EXPECT_THAT(file.Write(Bytes(0, kPiece), 0), StatusIs(absl::StatusCode::kResourceExhausted, ::testing::_));
}

}  // namespace
}  // namespace cpr
