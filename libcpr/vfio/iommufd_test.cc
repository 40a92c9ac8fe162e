#include "libcpr/vfio/iommufd.h"

#include <cerrno>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_util.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vfio/iommufd_uapi.h"

namespace cpr::vfio {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kOld = 1, kNew = 2;  // processes
constexpr int kRam = 5;            // a memfd
constexpr uint32_t kIoas = 3, kDeviceId = 8;
constexpr uint64_t kMiB = 1 << 20;

// Stands in for the kernel's iommufd: mappings are of files, count for one process, and change it all at once.
struct FakeIommufd {
  struct Mapped {
    IoasMapFile map;
    int process;
  };

  int errno_of_map = 0, errno_of_attach = 0, errno_of_change = 0;
  std::map<int, uint64_t> locked_limit_bytes;   // by process
  std::map<uint64_t, Mapped> mapped;            // by iova
  std::map<uint64_t, IoasMap> mapped_by_vaddr;  // by iova
  size_t unmapped = 0;
  bool bound = false;
  uint32_t attached_to = 0;

  IoctlFunction As(int process) {
    return [this, process](int, unsigned long request, void* argument) {
      const int error = Answer(process, request, argument);
      errno = error;
      return error == 0 ? 0 : -1;
    };
  }
  uint64_t LockedBytes(int process) const {
    uint64_t bytes = 0;
    for (const auto& [iova, mapping] : mapped) bytes += mapping.process == process ? mapping.map.length_bytes : 0;
    return bytes;
  }
  bool Exceeds(int process, uint64_t bytes) const {
    const auto limit = locked_limit_bytes.find(process);
    return limit != locked_limit_bytes.end() && bytes > limit->second;
  }

 private:
  int Answer(int process, unsigned long request, void* argument) {  // NOLINT(google-runtime-int)
    if (request == kVfioBindIommufd) return Bind(*static_cast<VfioBindIommufd*>(argument));
    if (request == kVfioAttachIommufd) return Attach(*static_cast<const VfioAttachIommufd*>(argument));
    if (request == kIoasAlloc) return Alloc(*static_cast<IoasAlloc*>(argument));
    if (request == kIoasMapFile) return Map(process, *static_cast<const IoasMapFile*>(argument));
    if (request == kIoasMap) return MapVaddr(*static_cast<const IoasMap*>(argument));
    if (request == kIoasUnmap) return Unmap(*static_cast<const IoasUnmap*>(argument));
    if (request == kIoasChangeProcess) return Change(process, *static_cast<const IoasChangeProcess*>(argument));
    return ENOTTY;
  }
  static int Alloc(IoasAlloc& alloc) {
    if (alloc.size != sizeof(alloc) || alloc.flags != 0) return EINVAL;
    alloc.ioas_id = kIoas;
    return 0;
  }
  int Bind(VfioBindIommufd& bind) {
    if (bind.size != sizeof(bind) || bind.flags != 0 || bound) return EINVAL;
    bound = true;
    bind.device_id = kDeviceId;
    return 0;
  }
  int Attach(const VfioAttachIommufd& attach) {
    if (attach.size != sizeof(attach) || attach.flags != 0 || !bound) return EINVAL;
    if (errno_of_attach != 0) return errno_of_attach;
    attached_to = attach.page_table_id;
    return 0;
  }
  int Map(int process, const IoasMapFile& map) {
    if (errno_of_map != 0) return errno_of_map;
    if (map.size != sizeof(map) || map.ioas_id != kIoas || (map.flags & kIoasMapFixedIova) == 0) return EINVAL;
    if (mapped.count(map.iova) != 0) return EEXIST;
    if (Exceeds(process, LockedBytes(process) + map.length_bytes)) return ENOMEM;
    mapped[map.iova] = {map, process};
    return 0;
  }
  int MapVaddr(const IoasMap& map) {
    if (errno_of_map != 0) return errno_of_map;
    if (map.size != sizeof(map) || map.ioas_id != kIoas || map.reserved != 0) return EINVAL;
    mapped_by_vaddr[map.iova] = map;
    return 0;
  }
  int Unmap(const IoasUnmap& unmap) {
    if (unmap.size != sizeof(unmap) || unmap.ioas_id != kIoas) return EINVAL;
    const auto found = mapped.find(unmap.iova);
    if (found == mapped.end() || found->second.map.length_bytes != unmap.length_bytes) return ENOENT;
    mapped.erase(found);
    ++unmapped;
    return 0;
  }
  int Change(int process, const IoasChangeProcess& change) {
    if (errno_of_change != 0) return errno_of_change;
    if (change.size != sizeof(change) || change.reserved != 0 || !mapped_by_vaddr.empty()) return EINVAL;
    uint64_t bytes = 0;
    for (const auto& [iova, mapping] : mapped) bytes += mapping.map.length_bytes;
    if (Exceeds(process, bytes)) return ENOMEM;
    for (auto& [iova, mapping] : mapped) mapping.process = process;
    return 0;
  }
};

class IommufdTest : public ::testing::Test {
 protected:
  // The old process' with RAM below and above the hole.
  Iommufd Busy() {
    absl::StatusOr<Iommufd> iommufd = Iommufd::Create(UniqueFd(), kernel_.As(kOld));
    EXPECT_THAT(iommufd.status(), IsOk());
    EXPECT_THAT(iommufd->Map({.iova = 0, .size_bytes = 64 * kMiB, .fd = kRam}), IsOk());
    EXPECT_THAT(iommufd->Map({.iova = uint64_t{4} << 30,
                              .size_bytes = 128 * kMiB,
                              .fd = kRam,
                              .offset_bytes = 64 * kMiB,
                              .writable = false}),
                IsOk());
    return *std::move(iommufd);
  }
  void ExpectAllOf(int process) const {
    EXPECT_EQ(kernel_.mapped.size(), 2u);
    EXPECT_EQ(kernel_.LockedBytes(process), 192 * kMiB) << "of process " << process;
    EXPECT_EQ(kernel_.unmapped, 0u) << "a device has lost memory";
  }

  FakeIommufd kernel_;
};

TEST_F(IommufdTest, FilesMemoryIsMappedWhereTheGuestHasIt) {
  const Iommufd iommufd = Busy();
  ExpectAllOf(kOld);
  EXPECT_EQ(iommufd.ioas_id(), kIoas);
  const IoasMapFile& low = kernel_.mapped[0].map;
  EXPECT_EQ(low.fd, kRam);
  EXPECT_EQ(low.flags, kIoasMapFixedIova | kIoasMapReadable | kIoasMapWriteable);
  const IoasMapFile& high = kernel_.mapped[uint64_t{4} << 30].map;
  EXPECT_EQ(high.offset_bytes, 64 * kMiB);
  EXPECT_EQ(high.flags, kIoasMapFixedIova | kIoasMapReadable);
}

TEST_F(IommufdTest, ADeviceIsAttachedToTheAddressSpaceOnce) {
  Iommufd iommufd = Busy();
  CPR_ASSERT_OK_AND_ASSIGN(const uint32_t id, iommufd.Attach(20));
  EXPECT_EQ(id, kDeviceId);
  EXPECT_EQ(kernel_.attached_to, kIoas);
  EXPECT_THAT(iommufd.Attach(20).status().message(), HasSubstr("VFIO_DEVICE_BIND_IOMMUFD"));
}

TEST_F(IommufdTest, WhatIsUnmappedIsGone) {
  Iommufd iommufd = Busy();
  EXPECT_THAT(iommufd.Unmap(0, 64 * kMiB), IsOk());
  const absl::Status again = iommufd.Unmap(0, 64 * kMiB);
  EXPECT_EQ(StatusErrno(again), ENOENT);
  EXPECT_THAT(again.message(), HasSubstr("at 0x0"));
}

TEST_F(IommufdTest, AKernelThatMapsNoFilesIsNamed) {
  CPR_ASSERT_OK_AND_ASSIGN(Iommufd iommufd, Iommufd::Create(UniqueFd(), kernel_.As(kOld)));
  kernel_.errno_of_map = ENOTTY;
  EXPECT_THAT(iommufd.Map({.iova = 0, .size_bytes = kMiB, .fd = kRam}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("IOMMU_IOAS_MAP_FILE")));
  EXPECT_THAT(kernel_.mapped, IsEmpty());
}

TEST_F(IommufdTest, TooLittleLockedMemoryIsSaid) {
  Iommufd iommufd = Busy();
  kernel_.locked_limit_bytes[kOld] = 192 * kMiB;
  EXPECT_THAT(
      iommufd.Map({.iova = uint64_t{8} << 30, .size_bytes = kMiB, .fd = kRam}),
      StatusIs(absl::StatusCode::kResourceExhausted, AllOf(HasSubstr("0x200000000"), HasSubstr("RLIMIT_MEMLOCK"),
                                                           HasSubstr(absl::StrCat(193 * kMiB, " bytes of it")))));
  ExpectAllOf(kOld);
}

// The kernel pins nothing before there is a device.
TEST_F(IommufdTest, TooLittleLockedMemoryIsSaidOfTheFirstDeviceToo) {
  Iommufd iommufd = Busy();
  ASSERT_THAT(iommufd.Unmap(0, 64 * kMiB), IsOk());
  kernel_.errno_of_attach = ENOMEM;
  EXPECT_THAT(iommufd.Attach(20).status(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("VFIO_DEVICE_ATTACH_IOMMUFD_PT"), HasSubstr("RLIMIT_MEMLOCK"),
                             HasSubstr(absl::StrCat(128 * kMiB, " bytes of it")))));
  kernel_.bound = false;
  kernel_.errno_of_attach = EFAULT;
  EXPECT_THAT(iommufd.Attach(20).status().message(), HasSubstr("cannot pin"));
}

TEST_F(IommufdTest, AKernelThatCannotHandOverIsABlockerInQemusWords) {
  const Iommufd iommufd = Busy();
  EXPECT_THAT(iommufd.CheckHandover(), IsOk());
  for (const int error : {ENOTTY, EINVAL}) {
    kernel_.errno_of_change = error;
    EXPECT_THAT(iommufd.CheckHandover(), StatusIs(absl::StatusCode::kUnimplemented,
                                                  "vfio iommufd backend does not support IOMMU_IOAS_CHANGE_PROCESS"));
  }
}

TEST_F(IommufdTest, ThatThereIsNoRoomForThisProcessIsNoBlocker) {
  const Iommufd iommufd = Busy();
  kernel_.errno_of_change = ENOMEM;
  EXPECT_THAT(iommufd.CheckHandover(), IsOk());
}

TEST_F(IommufdTest, MemoryOfAFileThatCannotBePinnedIsMappedByItsAddressAndStays) {
  Iommufd iommufd = Busy();
  uint8_t ram = 0;
  ASSERT_THAT(iommufd.MapVaddr(uint64_t{8} << 30, kMiB, &ram), IsOk());
  const IoasMap& map = kernel_.mapped_by_vaddr[uint64_t{8} << 30];
  EXPECT_EQ(map.vaddr, reinterpret_cast<uintptr_t>(&ram));
  EXPECT_EQ(map.length_bytes, kMiB);
  EXPECT_EQ(map.flags, kIoasMapFixedIova | kIoasMapReadable | kIoasMapWriteable);
  EXPECT_THAT(iommufd.CheckHandover(), StatusIs(absl::StatusCode::kUnimplemented,
                                                "vfio iommufd backend does not support IOMMU_IOAS_CHANGE_PROCESS"));
  kernel_.errno_of_map = EINVAL;
  EXPECT_THAT(iommufd.MapVaddr(uint64_t{9} << 30, kMiB, &ram).message(),
              AllOf(HasSubstr("0x240000000"), HasSubstr("IOMMU_IOAS_MAP")));
}

TEST_F(IommufdTest, AnotherProcessTakesEverythingAtOnceAndNothingIsEverUnpinned) {
  Iommufd old_side = Busy();
  Iommufd new_side = Iommufd::Adopt(UniqueFd(), old_side.ioas_id(), kernel_.As(kNew));
  ASSERT_THAT(new_side.TakeOver(), IsOk());
  ExpectAllOf(kNew);
  // What fails afterwards gives it back.
  ASSERT_THAT(old_side.TakeOver(), IsOk());
  ExpectAllOf(kOld);
}

TEST_F(IommufdTest, ALimitInTheNewProcessLeavesEverythingWithTheOldOne) {
  const Iommufd old_side = Busy();
  kernel_.locked_limit_bytes[kNew] = 100 * kMiB;
  Iommufd new_side = Iommufd::Adopt(UniqueFd(), old_side.ioas_id(), kernel_.As(kNew));
  EXPECT_THAT(new_side.TakeOver(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("RLIMIT_MEMLOCK")));
  ExpectAllOf(kOld);
}

}  // namespace
}  // namespace cpr::vfio
