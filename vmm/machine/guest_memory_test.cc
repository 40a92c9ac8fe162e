#include "vmm/machine/guest_memory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/machine/ram_layout.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr uint64_t kMib = 1 << 20, kGib = 1 << 30;

MemoryBackend Memfd(uint64_t size_bytes) {
  return {.kind = MemoryBackendKind::kMemfd, .id = "ram0", .size_bytes = size_bytes, .share = true};
}

absl::StatusOr<GuestMemory> MemoryOf(const MemoryBackend& backend) {
  auto blocks = CreateGuestRam(backend);
  if (!blocks.ok()) return blocks.status();
  return GuestMemory::Create(*std::move(blocks));
}

TEST(GuestMemoryTest, SmallRamIsOneBlock) {
  CPR_ASSERT_OK_AND_ASSIGN(const GuestMemory memory, MemoryOf(Memfd(64 * kMib)));
  ASSERT_EQ(memory.blocks().size(), 1u);
  EXPECT_EQ(memory.blocks()[0].name(), "ram0");
  EXPECT_EQ(memory.low_bytes(), 64 * kMib);
  EXPECT_EQ(memory.high_bytes(), 0u);
}

TEST(GuestMemoryTest, LargeRamIsSplitRoundTheHoleInOneFile) {
  CPR_ASSERT_OK_AND_ASSIGN(const GuestMemory memory, MemoryOf(Memfd(5 * kGib)));
  ASSERT_EQ(memory.blocks().size(), 2u);
  EXPECT_EQ(memory.low_bytes(), 3 * kGib);
  EXPECT_EQ(memory.high_bytes(), 2 * kGib);
  const RamBlock& high = memory.blocks()[1];
  EXPECT_EQ(high.name(), "ram0-high");
  EXPECT_EQ(high.gpa(), 4 * kGib);
  EXPECT_EQ(high.offset_bytes(), 3 * kGib);
  EXPECT_EQ(high.identity().inode, memory.blocks()[0].identity().inode);
}

TEST(GuestMemoryTest, OnlyRamCanBeReached) {
  CPR_ASSERT_OK_AND_ASSIGN(const GuestMemory memory, MemoryOf(Memfd(4 * kGib)));
  EXPECT_THAT(memory.At(3 * kGib - 1, 1), IsOk());
  EXPECT_THAT(memory.At(5 * kGib - 4096, 4096), IsOk());
  for (const auto& [gpa, size] : std::initializer_list<std::pair<uint64_t, uint64_t>>{{3 * kGib - 1, 2},
                                                                                      {3 * kGib, 1},
                                                                                      {4 * kGib - 1, 1},
                                                                                      {5 * kGib, 1},
                                                                                      {4096, ~uint64_t{0}},
                                                                                      {~uint64_t{0}, 1}}) {
    EXPECT_THAT(memory.At(gpa, size), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("not all RAM")));
  }
}

TEST(GuestMemoryTest, DuplicatedBlocksAreTheSameMemory) {
  CPR_ASSERT_OK_AND_ASSIGN(const GuestMemory memory, MemoryOf(Memfd(kMib)));
  CPR_ASSERT_OK_AND_ASSIGN(std::vector<RamBlock> blocks, memory.DupBlocks());
  CPR_ASSERT_OK_AND_ASSIGN(const GuestMemory again, GuestMemory::Create(std::move(blocks)));
  CPR_ASSERT_OK_AND_ASSIGN(const absl::Span<uint8_t> here, memory.At(4096, 1));
  CPR_ASSERT_OK_AND_ASSIGN(const absl::Span<uint8_t> there, again.At(4096, 1));
  here[0] = 7;
  EXPECT_EQ(there[0], 7);
}

TEST(GuestMemoryTest, PrivateRamIsKnownAsSuch) {
  MemoryBackend backend = Memfd(kMib);
  backend.kind = MemoryBackendKind::kRam;
  backend.share = false;
  CPR_ASSERT_OK_AND_ASSIGN(const GuestMemory memory, MemoryOf(backend));
  EXPECT_FALSE(memory.blocks()[0].SurvivesProcess());
  CPR_ASSERT_OK_AND_ASSIGN(const absl::Span<uint8_t> ram, memory.At(0, kMib));
  ram[0] = 1;
}

TEST(GuestMemoryTest, BlocksThatOverlapOrFillTheHoleAreRefused) {
  const auto block = [](uint64_t gpa) {
    auto blocks = CreateGuestRam(Memfd(kMib));
    RamBlockLayout layout = blocks->front().layout();
    layout.gpa = gpa;
    return *RamBlock::Create(layout, *blocks->front().DupFd());
  };
  const auto create = [&](std::initializer_list<uint64_t> gpas) {
    std::vector<RamBlock> blocks;
    for (const uint64_t gpa : gpas) blocks.push_back(block(gpa));
    return GuestMemory::Create(std::move(blocks)).status();
  };
  EXPECT_THAT(create({}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("needs RAM")));
  EXPECT_THAT(create({0, 4096}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("overlaps")));
  EXPECT_THAT(create({3 * kGib}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("hole")));
  EXPECT_THAT(create({kMib, 0}), IsOk());
}

}  // namespace
}  // namespace cpr
