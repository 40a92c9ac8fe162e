// Memory and state that outlive the kernel. Run as helper Hold, it preserves both and holds the session until the
// kernel goes; run as a test by the next kernel, it finds them. The testbed's scenario liveupdate does both.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/memory/backend.h"
#include "libcpr/memory/ram_block.h"
#include "libcpr/preserve/live_update.h"
#include "libcpr/testing/helper.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;

constexpr char kName[] = "vm1";
constexpr uint64_t kRamToken = 1, kStateToken = 0x8000000000000002;
constexpr char kState[] = "the guest's registers";
constexpr size_t kPageBytes = 4096, kPages = size_t{256} << 8;  // 256 MiB

// What page `number` is full of; 0, a hole, at every 16th.
uint64_t WordOf(size_t number) { return number % 16 == 0 ? 0 : number * 0x9e3779b97f4a7c15; }

uint64_t* Page(const Mapping& ram, size_t number) {
  return reinterpret_cast<uint64_t*>(ram.data() + number * kPageBytes);
}

// Every second page from `first` on.
void FillPages(const Mapping& ram, size_t first) {
  for (size_t page = first; page < kPages; page += 2) {
    if (WordOf(page) != 0) std::fill_n(Page(ram, page), kPageBytes / sizeof(uint64_t), WordOf(page));
  }
}

std::vector<size_t> WrongPages(const Mapping& ram) {
  std::vector<size_t> wrong;
  for (size_t page = 0; page < kPages; ++page) {
    const uint64_t* words = Page(ram, page);
    if (!std::all_of(words, words + kPageBytes / sizeof(uint64_t), [page](uint64_t w) { return w == WordOf(page); })) {
      wrong.push_back(page);
    }
  }
  return wrong;
}

absl::StatusOr<LiveUpdateSession> Preserve() {
  CPR_ASSIGN_OR_RETURN(const RamBackend backend, CreateMemfdBackend({.size_bytes = kPages * kPageBytes}));
  CPR_ASSIGN_OR_RETURN(const Mapping ram, MapRamBackend(backend));
  CPR_ASSIGN_OR_RETURN(LiveUpdate device, LiveUpdate::Open());
  CPR_ASSIGN_OR_RETURN(LiveUpdateSession session, device.CreateSession(kName));
  FillPages(ram, 0);
  CPR_RETURN_IF_ERROR(session.PreserveFd(backend.fd.get(), kRamToken));
  // As a guest that runs on.
  FillPages(ram, 1);
  const UniqueFd state(::memfd_create("state", MFD_CLOEXEC));
  CPR_RETURN_IF_ERROR(WriteAll(state.get(), kState));
  CPR_RETURN_IF_ERROR(session.PreserveFd(state.get(), kStateToken));
  return session;
}

CPR_TEST_HELPER(Hold, (const std::vector<std::string>&)) {
  const absl::StatusOr<LiveUpdateSession> session = Preserve();
  const std::string text = session.ok() ? "held" : session.status().ToString();
  if (!WriteAll(STDOUT_FILENO, text + "\n").ok() || !session.ok()) return 1;
  while (true) ::pause();
}

TEST(KeptMemoryTest, EveryPageAndTheStateAreThere) {
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdate device, LiveUpdate::Open());
  CPR_ASSERT_OK_AND_ASSIGN(LiveUpdateSession session, device.RetrieveSession(kName));
  EXPECT_THAT(device.RetrieveSession(kName), StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(session.RetrieveFd(3), StatusIs(absl::StatusCode::kNotFound, _));

  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd state, session.RetrieveFd(kStateToken));
  EXPECT_EQ(::lseek(state.get(), 0, SEEK_SET), 0);
  CPR_ASSERT_OK_AND_ASSIGN(const std::string text, ReadToEnd(state.get(), 4096));
  EXPECT_EQ(text, kState);

  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd fd, session.RetrieveFd(kRamToken));
  EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  // Seals and size are what guest RAM has to have.
  CPR_ASSERT_OK_AND_ASSIGN(
      const RamBlock block,
      RamBlock::Create(
          {.name = "ram", .size_bytes = kPages * kPageBytes, .backing = RamBacking::kMemfd, .shared = true},
          std::move(fd)));
  CPR_ASSERT_OK_AND_ASSIGN(const Mapping ram, MapRamBlock(block));
  EXPECT_THAT(WrongPages(ram), ::testing::IsEmpty());

  ASSERT_THAT(session.Finish(), IsOk());
  EXPECT_THAT(WrongPages(ram), ::testing::IsEmpty()) << "after Finish";
  *Page(ram, kPages - 1) = 0;
  EXPECT_THAT(WrongPages(ram), ::testing::ElementsAre(kPages - 1)) << "the guest cannot run on it";
}

}  // namespace
}  // namespace cpr
