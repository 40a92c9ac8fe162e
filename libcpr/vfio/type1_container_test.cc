#include "libcpr/vfio/type1_container.h"

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_util.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vfio/fake_type1.h"

namespace cpr::vfio {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FakeType1;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int kOld = 1, kNew = 2;  // processes
constexpr uint64_t kMiB = 1 << 20;

// Guest RAM as a process has it from `base` on: below and above the hole, and a ROM.
std::vector<DmaMapping> RamAt(uintptr_t base) {
  const auto at = [base](uintptr_t offset) { return reinterpret_cast<uint8_t*>(base + offset); };
  return {{.iova = 0, .size_bytes = 64 * kMiB, .vaddr = at(0)},
          {.iova = 0xfffc0000, .size_bytes = 0x40000, .vaddr = at(1024 * kMiB), .writable = false},
          {.iova = uint64_t{4} << 30, .size_bytes = 128 * kMiB, .vaddr = at(64 * kMiB)}};
}
constexpr uintptr_t kOldBase = 0x10000000, kNewBase = 0x70000000;

class Type1ContainerTest : public ::testing::Test {
 protected:
  // The container of the old process, with a group and RAM.
  Type1Container Busy() {
    absl::StatusOr<Type1Container> container = Type1Container::Create(UniqueFd(), kernel_.As(kOld));
    EXPECT_THAT(container.status(), IsOk());
    EXPECT_THAT(container->AddGroup(FakeType1::kViableGroup, "26"), IsOk());
    for (const DmaMapping& mapping : RamAt(kOldBase)) EXPECT_THAT(container->Map(mapping), IsOk());
    kernel_.calls.clear();
    return *std::move(container);
  }
  Type1Container Arrived() { return Type1Container::Adopt(UniqueFd(), RamAt(kNewBase), kernel_.As(kNew)); }

  void ExpectAllAt(uintptr_t base, int process) {
    ASSERT_EQ(kernel_.pinned.size(), 3u);
    for (const DmaMapping& mapping : RamAt(base)) {
      EXPECT_EQ(kernel_.pinned[mapping.iova], (FakeType1::Pinned{.size_bytes = mapping.size_bytes,
                                                                 .vaddr = reinterpret_cast<uintptr_t>(mapping.vaddr),
                                                                 .has_vaddr = true,
                                                                 .writable = mapping.writable,
                                                                 .process = process}))
          << "the mapping at " << mapping.iova << " of process " << kernel_.pinned[mapping.iova].process;
    }
    EXPECT_EQ(kernel_.unpinned, 0u) << "a device has lost memory";
  }

  FakeType1 kernel_;
};

TEST_F(Type1ContainerTest, MemoryIsPinnedForTheDevicesOfItsGroups) {
  Type1Container container = Busy();
  ExpectAllAt(kOldBase, kOld);
  EXPECT_THAT(container.AddGroup(FakeType1::kOtherViableGroup, "27"), IsOk());
  EXPECT_THAT(kernel_.groups, ElementsAre(FakeType1::kViableGroup, FakeType1::kOtherViableGroup));
  EXPECT_EQ(container.mappings(), RamAt(kOldBase));
}

TEST_F(Type1ContainerTest, WhatIsUnmappedIsNoMappingAnyMore) {
  Type1Container container = Busy();
  EXPECT_THAT(container.Unmap(0xfffc0000), IsOk());
  EXPECT_EQ(kernel_.pinned.count(0xfffc0000), 0u);
  EXPECT_EQ(container.mappings().size(), 2u);
  EXPECT_THAT(container.Unmap(0xfffc0000), StatusIs(absl::StatusCode::kNotFound, HasSubstr("0xfffc0000")));
}

TEST_F(Type1ContainerTest, AHostWithoutType1IsNamed) {
  kernel_.has_type1 = false;
  EXPECT_THAT(Type1Container::Create(UniqueFd(), kernel_.As(kOld)).status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("type 1")));
  kernel_.api_version = 7;
  EXPECT_THAT(Type1Container::Create(UniqueFd(), kernel_.As(kOld)).status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("version 7")));
}

TEST_F(Type1ContainerTest, AGroupThatTheHostUsesIsRefusedByName) {
  Type1Container container = Busy();
  EXPECT_THAT(container.AddGroup(FakeType1::kGroupOfTheHost, "31"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("group 31 is not viable")));
  EXPECT_THAT(kernel_.groups, ElementsAre(FakeType1::kViableGroup));
}

TEST_F(Type1ContainerTest, AGroupWhoseIommuIsRefusedIsLeftOutAndMayBeAddedAgain) {
  absl::StatusOr<Type1Container> container = Type1Container::Create(UniqueFd(), kernel_.As(kOld));
  ASSERT_THAT(container.status(), IsOk());
  kernel_.FailOne(/*after=*/2, ENODEV);  // its status, into the container
  EXPECT_THAT(container->AddGroup(FakeType1::kViableGroup, "26").message(), HasSubstr("VFIO_SET_IOMMU"));
  EXPECT_THAT(kernel_.groups, IsEmpty()) << "the group is still in the container";
  EXPECT_THAT(container->AddGroup(FakeType1::kViableGroup, "26"), IsOk());
}

TEST_F(Type1ContainerTest, TooLittleLockedMemoryIsSaid) {
  Type1Container container = Busy();
  kernel_.locked_limit_bytes[kOld] = kernel_.LockedBytes(kOld);
  const DmaMapping more = {.iova = uint64_t{8} << 30, .size_bytes = kMiB, .vaddr = RamAt(kOldBase)[0].vaddr};
  EXPECT_THAT(container.Map(more),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("0x200000000"), HasSubstr("RLIMIT_MEMLOCK"),
                             HasSubstr(absl::StrCat(kernel_.LockedBytes(kOld) + kMiB, " bytes of it")))));
  EXPECT_EQ(container.mappings(), RamAt(kOldBase));
}

TEST_F(Type1ContainerTest, MemoryThatCannotBePinnedIsNamedWithWhatToLookAt) {
  Type1Container container = Busy();
  kernel_.FailOne(0, EFAULT);
  const absl::Status refused = container.Map({.iova = uint64_t{8} << 30, .size_bytes = kMiB, .vaddr = nullptr});
  EXPECT_EQ(StatusErrno(refused), EFAULT);
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("1048576 bytes at 0x200000000"), HasSubstr("huge pages")));
}

TEST_F(Type1ContainerTest, AKernelThatCannotHandOverIsABlockerInQemusWords) {
  Type1Container container = Busy();
  EXPECT_THAT(container.CheckHandover(), IsOk());
  for (bool* has : {&kernel_.has_update_vaddr, &kernel_.has_unmap_all}) {
    *has = false;
    EXPECT_THAT(container.CheckHandover(),
                StatusIs(absl::StatusCode::kUnimplemented, "VFIO container does not support VFIO_UPDATE_VADDR"));
    *has = true;
  }
}

TEST_F(Type1ContainerTest, AnotherProcessTakesEverythingAndNothingIsEverUnpinned) {
  Type1Container old_side = Busy();
  ASSERT_THAT(old_side.ReleaseMappings(), IsOk());
  Type1Container new_side = Arrived();
  ASSERT_THAT(new_side.TakeMappings(), IsOk());
  ExpectAllAt(kNewBase, kNew);
  EXPECT_EQ(kernel_.LockedBytes(kOld), 0u) << "the old process still pays for the guest's memory";
  EXPECT_THAT(kernel_.calls,
              ElementsAre("VFIO_IOMMU_UNMAP_DMA", "VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_MAP_DMA"));
  // And on to the next.
  ASSERT_THAT(new_side.ReleaseMappings(), IsOk());
  Type1Container third = Type1Container::Adopt(UniqueFd(), RamAt(kOldBase), kernel_.As(3));
  ASSERT_THAT(third.TakeMappings(), IsOk());
  ExpectAllAt(kOldBase, 3);
}

TEST_F(Type1ContainerTest, AContainerWithoutMappingsCanGoToo) {
  CPR_ASSERT_OK_AND_ASSIGN(Type1Container container, Type1Container::Create(UniqueFd(), kernel_.As(kOld)));
  EXPECT_THAT(container.ReleaseMappings(), IsOk());
  EXPECT_THAT(container.ReclaimMappings(), IsOk());
}

TEST_F(Type1ContainerTest, ARefusedReleaseChangesNothing) {
  Type1Container old_side = Busy();
  kernel_.FailOne(0, EBUSY);
  const absl::Status refused = old_side.ReleaseMappings();
  EXPECT_THAT(refused, Not(IsOk()));
  EXPECT_EQ(StatusErrno(refused), EBUSY);
  ExpectAllAt(kOldBase, kOld);
}

// Wherever the new side is refused, the old one has everything back.
TEST_F(Type1ContainerTest, WhatFailsInTheNewProcessIsUndone) {
  for (size_t call = 0; call < RamAt(kNewBase).size(); ++call) {
    SCOPED_TRACE(absl::StrCat("call ", call));
    kernel_ = FakeType1();
    Type1Container old_side = Busy();
    ASSERT_THAT(old_side.ReleaseMappings(), IsOk());
    kernel_.FailOne(call, EFAULT);
    Type1Container new_side = Arrived();
    EXPECT_THAT(new_side.TakeMappings().message(), HasSubstr(absl::StrCat(absl::Hex(RamAt(kNewBase)[call].iova))));
    for (const auto& [iova, mapping] : kernel_.pinned) EXPECT_FALSE(mapping.has_vaddr) << iova;
    ASSERT_THAT(old_side.ReclaimMappings(), IsOk());
    ExpectAllAt(kOldBase, kOld);
  }
}

TEST_F(Type1ContainerTest, ALimitInTheNewProcessIsSaidAndUndone) {
  Type1Container old_side = Busy();
  kernel_.locked_limit_bytes[kNew] = 65 * kMiB;
  ASSERT_THAT(old_side.ReleaseMappings(), IsOk());
  Type1Container new_side = Arrived();
  EXPECT_THAT(
      new_side.TakeMappings(),
      StatusIs(absl::StatusCode::kResourceExhausted,
               AllOf(HasSubstr("RLIMIT_MEMLOCK"), HasSubstr(absl::StrCat(kernel_.LockedBytes(kOld), " bytes of it")))));
  ASSERT_THAT(old_side.ReclaimMappings(), IsOk());
  ExpectAllAt(kOldBase, kOld);
}

// It has undone nothing, and what it had taken counts as having an address.
TEST_F(Type1ContainerTest, WhatANewProcessDiedWithIsTakenBack) {
  for (size_t taken = 0; taken <= RamAt(kNewBase).size(); ++taken) {
    SCOPED_TRACE(absl::StrCat(taken, " taken"));
    kernel_ = FakeType1();
    Type1Container old_side = Busy();
    ASSERT_THAT(old_side.ReleaseMappings(), IsOk());
    std::vector<DmaMapping> some = RamAt(kNewBase);
    some.resize(taken);
    ASSERT_THAT(Type1Container::Adopt(UniqueFd(), some, kernel_.As(kNew)).TakeMappings(), IsOk());
    ASSERT_THAT(old_side.ReclaimMappings(), IsOk());
    ExpectAllAt(kOldBase, kOld);
  }
}

TEST_F(Type1ContainerTest, ReclaimingGoesOnBehindAMappingThatIsRefused) {
  Type1Container old_side = Busy();
  ASSERT_THAT(old_side.ReleaseMappings(), IsOk());
  kernel_.FailOne(0, ENOMEM);
  EXPECT_THAT(old_side.ReclaimMappings(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("at 0x0")));
  EXPECT_FALSE(kernel_.pinned[0].has_vaddr);
  EXPECT_TRUE(kernel_.pinned[0xfffc0000].has_vaddr);
  ASSERT_THAT(old_side.ReclaimMappings(), IsOk());
  ExpectAllAt(kOldBase, kOld);
}

TEST_F(Type1ContainerTest, AListThatIsNotTheKernelsIsRefusedByItsFirstDifference) {
  Type1Container old_side = Busy();
  ASSERT_THAT(old_side.ReleaseMappings(), IsOk());
  std::vector<DmaMapping> other = RamAt(kNewBase);
  other[2].size_bytes += kMiB;
  EXPECT_THAT(Type1Container::Adopt(UniqueFd(), other, kernel_.As(kNew)).TakeMappings().message(),
              HasSubstr("at 0x100000000"));
  ASSERT_THAT(old_side.ReclaimMappings(), IsOk());
  ExpectAllAt(kOldBase, kOld);
}

}  // namespace
}  // namespace cpr::vfio
