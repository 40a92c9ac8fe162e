// A real device's memory changes hands between processes while its DMA is under way, by a type 1 container and by an
// iommufd. For a host with an IOMMU and QEMU's edu device: the testbed's scenario vfio runs it.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/vfio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vfio/iommufd.h"
#include "libcpr/vfio/type1_container.h"
#include "tests/vfio/edu.h"

namespace cpr::vfio {
namespace {

using ::cpr::testing::Edu;
using ::cpr::testing::IsOk;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr size_t kHalfBytes = 1 << 20;  // of the RAM; a mapping each
constexpr uint64_t kLowIova = 0x100000, kHighIova = 0x800000;
constexpr uint32_t kBytes = Edu::kBufferBytes;
constexpr uid_t kNobody = 65534;

// Runs `body` in a process of its own, as a new VMM is one, and returns what it returns.
absl::Status InAnotherProcess(const std::function<absl::Status()>& body) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe2");
  const pid_t child = ::fork();
  if (child == 0) {
    const absl::Status status = body();
    const std::string text(status.message());
    ::_exit(WriteAll(ends[1], text).ok() ? static_cast<int>(status.code()) : 1);
  }
  ::close(ends[1]);
  const UniqueFd reader(ends[0]);
  const absl::StatusOr<std::string> text = ReadToEnd(reader.get(), 4096);
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return absl::InternalError("the child");
  return absl::Status(static_cast<absl::StatusCode>(WEXITSTATUS(status)), text.value_or("?"));
}

// What this process has `what` of, "VmLck" or "VmPin", in KiB.
int KibOf(const std::string& what) {
  std::ifstream file("/proc/self/status");
  std::string word;
  int kib = -1;
  while (file >> word) {
    if (word == absl::StrCat(what, ":")) file >> kib;
  }
  return kib;
}

// As without privileges, and with no more than this of locked memory.
absl::Status LimitLockedMemory(rlim_t bytes) {
  const rlimit limit = {bytes, bytes};
  if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return ErrnoStatus(errno, "RLIMIT_MEMLOCK");
  return ::setresuid(kNobody, kNobody, kNobody) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "setresuid");
}

// With that capability an iommufd counts nothing, and moves no count.
absl::Status DropIpcLock() {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return ErrnoStatus(errno, "capget");
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  return ::syscall(SYS_capset, &header, data) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "capset");
}

// A process' view of the RAM and of the device.
struct View {
  Mapping ram;
  std::optional<Edu> edu;

  std::vector<DmaMapping> Mappings() const {
    return {{.iova = kLowIova, .size_bytes = kHalfBytes, .vaddr = ram.data()},
            {.iova = kHighIova, .size_bytes = kHalfBytes, .vaddr = ram.data() + kHalfBytes}};
  }
  void BeginCopy(char with) {
    std::memset(ram.data(), with, kBytes);
    std::memset(ram.data() + kHalfBytes, 0, kBytes);
    edu->ReadFrom(kLowIova, kBytes);
  }
  absl::Status EndCopy(char with) {
    CPR_RETURN_IF_ERROR(edu->AwaitDma());
    edu->WriteTo(kHighIova, kBytes);
    CPR_RETURN_IF_ERROR(edu->AwaitDma());
    for (uint32_t i = 0; i < kBytes; ++i) {
      const uint8_t byte = ram.data()[kHalfBytes + i];
      if (byte != static_cast<uint8_t>(with)) return absl::DataLossError(absl::StrCat("byte ", i, " is ", byte));
    }
    return absl::OkStatus();
  }
  absl::Status Copy(char with) {
    BeginCopy(with);
    return EndCopy(with);
  }
};

class VfioHandoverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_ASSERT_OK_AND_ASSIGN(place_, Edu::Bind());
    ram_ = UniqueFd(::memfd_create("ram", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(ram_.get(), 2 * kHalfBytes), 0);
  }
  // RAM mapped anew, so at another address, and the device's registers.
  absl::StatusOr<View> MakeView() const {
    View view;
    CPR_ASSIGN_OR_RETURN(view.ram, Mapping::Create(ram_.get(), 0, 2 * kHalfBytes));
    CPR_ASSIGN_OR_RETURN(UniqueFd device, DupFd(device_.get()));
    CPR_ASSIGN_OR_RETURN(Edu edu, Edu::Create(std::move(device)));
    view.edu.emplace(std::move(edu));
    return view;
  }

  Edu::Place place_;
  UniqueFd ram_, device_;
};

class Type1HandoverTest : public VfioHandoverTest {
 protected:
  void SetUp() override {
    VfioHandoverTest::SetUp();
    CPR_ASSERT_OK_AND_ASSIGN(UniqueFd fd, Type1Container::Open());
    CPR_ASSERT_OK_AND_ASSIGN(Type1Container container, Type1Container::Create(std::move(fd)));
    container_.emplace(std::move(container));
    CPR_ASSERT_OK_AND_ASSIGN(group_, OpenFile(place_.group, O_RDWR));
    ASSERT_THAT(container_->AddGroup(group_.get(), place_.group), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(Mapping ram, Mapping::Create(ram_.get(), 0, 2 * kHalfBytes));
    old_.ram = std::move(ram);
    for (const DmaMapping& mapping : old_.Mappings()) ASSERT_THAT(container_->Map(mapping), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(const int device, CPR_IOCTL(group_.get(), VFIO_GROUP_GET_DEVICE_FD,
                                                         static_cast<const volatile void*>(place_.address.c_str())));
    device_ = UniqueFd(device);
    CPR_ASSERT_OK_AND_ASSIGN(UniqueFd same, DupFd(device_.get()));
    CPR_ASSERT_OK_AND_ASSIGN(Edu edu, Edu::Create(std::move(same)));
    old_.edu.emplace(std::move(edu));
    ASSERT_THAT(old_.Copy('a'), IsOk()) << "the device does not work at all";
  }
  absl::StatusOr<Type1Container> Adopt(std::vector<DmaMapping> mappings) const {
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, DupFd(container_->fd()));
    return Type1Container::Adopt(std::move(fd), std::move(mappings));
  }

  std::optional<Type1Container> container_;
  UniqueFd group_;
  View old_;
};

TEST_F(Type1HandoverTest, ATransferUnderWayEndsInTheNewProcess) {
  ASSERT_THAT(container_->CheckHandover(), IsOk());
  ASSERT_EQ(KibOf("VmLck"), 2048);
  old_.BeginCopy('b');
  ASSERT_THAT(container_->ReleaseMappings(), IsOk());
  EXPECT_THAT(InAnotherProcess([&]() -> absl::Status {
                CPR_ASSIGN_OR_RETURN(View view, MakeView());
                CPR_ASSIGN_OR_RETURN(Type1Container container, Adopt(view.Mappings()));
                CPR_RETURN_IF_ERROR(container.TakeMappings());
                if (KibOf("VmLck") != 2048) return absl::InternalError("the new process does not pay for the memory");
                CPR_RETURN_IF_ERROR(view.EndCopy('b'));
                return view.Copy('c');
              }),
              IsOk());
  EXPECT_EQ(KibOf("VmLck"), 0);
  // That process has died with all of it.
  ASSERT_THAT(container_->ReclaimMappings(), IsOk());
  EXPECT_EQ(KibOf("VmLck"), 2048);
  EXPECT_THAT(old_.Copy('d'), IsOk());
}

TEST_F(Type1HandoverTest, ANewProcessThatMayNotLockSoMuchLeavesEverythingToTheOldOne) {
  ASSERT_THAT(container_->ReleaseMappings(), IsOk());
  EXPECT_THAT(InAnotherProcess([&]() -> absl::Status {
                CPR_ASSIGN_OR_RETURN(View view, MakeView());
                CPR_ASSIGN_OR_RETURN(Type1Container container, Adopt(view.Mappings()));
                CPR_RETURN_IF_ERROR(LimitLockedMemory(kHalfBytes + kHalfBytes / 2));
                return container.TakeMappings();
              }),
              testing::StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("RLIMIT_MEMLOCK is 1572864 bytes")));
  ASSERT_THAT(container_->ReclaimMappings(), IsOk());
  EXPECT_EQ(KibOf("VmLck"), 2048);
  EXPECT_THAT(old_.Copy('b'), IsOk());
}

TEST_F(Type1HandoverTest, WhatANewProcessDiedWithHalfwayIsTakenBack) {
  old_.BeginCopy('b');
  ASSERT_THAT(container_->ReleaseMappings(), IsOk());
  ASSERT_THAT(InAnotherProcess([&]() -> absl::Status {
                CPR_ASSIGN_OR_RETURN(const View view, MakeView());
                CPR_ASSIGN_OR_RETURN(Type1Container container, Adopt({view.Mappings()[0]}));
                return container.TakeMappings();
              }),
              IsOk());
  EXPECT_THAT(container_->ReleaseMappings(), Not(IsOk())) << "the kernel's rule that taking back one by one is for";
  ASSERT_THAT(container_->ReclaimMappings(), IsOk());
  EXPECT_EQ(KibOf("VmLck"), 2048);
  EXPECT_THAT(old_.EndCopy('b'), IsOk());
}

TEST_F(Type1HandoverTest, AListThatIsNotTheKernelsIsRefused) {
  ASSERT_THAT(container_->ReleaseMappings(), IsOk());
  EXPECT_THAT(InAnotherProcess([&]() -> absl::Status {
                CPR_ASSIGN_OR_RETURN(const View view, MakeView());
                std::vector<DmaMapping> other = view.Mappings();
                other[1].size_bytes /= 2;
                CPR_ASSIGN_OR_RETURN(Type1Container container, Adopt(std::move(other)));
                return container.TakeMappings();
              }).message(),
              HasSubstr("at 0x800000"));
  ASSERT_THAT(container_->ReclaimMappings(), IsOk());
  EXPECT_THAT(old_.Copy('b'), IsOk());
}

class IommufdHandoverTest : public VfioHandoverTest {
 protected:
  void SetUp() override {
    VfioHandoverTest::SetUp();
    ASSERT_THAT(DropIpcLock(), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(UniqueFd fd, Iommufd::Open());
    CPR_ASSERT_OK_AND_ASSIGN(Iommufd iommufd, Iommufd::Create(std::move(fd)));
    iommufd_.emplace(std::move(iommufd));
    CPR_ASSERT_OK_AND_ASSIGN(device_, OpenFile(place_.node, O_RDWR));
    ASSERT_THAT(iommufd_->Attach(device_.get()).status(), IsOk());
    ASSERT_THAT(iommufd_->Map({.iova = kLowIova, .size_bytes = kHalfBytes, .fd = ram_.get()}), IsOk());
    ASSERT_THAT(
        iommufd_->Map({.iova = kHighIova, .size_bytes = kHalfBytes, .fd = ram_.get(), .offset_bytes = kHalfBytes}),
        IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(old_, MakeView());
    ASSERT_THAT(old_.Copy('a'), IsOk()) << "the device does not work at all";
  }

  std::optional<Iommufd> iommufd_;
  View old_;
};

TEST_F(IommufdHandoverTest, ATransferUnderWayEndsInTheNewProcess) {
  ASSERT_THAT(iommufd_->CheckHandover(), IsOk());
  const int pinned_kib = KibOf("VmPin");
  ASSERT_GE(pinned_kib, 2048);
  old_.BeginCopy('b');
  EXPECT_THAT(InAnotherProcess([&]() -> absl::Status {
                CPR_ASSIGN_OR_RETURN(View view, MakeView());
                CPR_ASSIGN_OR_RETURN(UniqueFd fd, DupFd(iommufd_->fd()));
                CPR_RETURN_IF_ERROR(Iommufd::Adopt(std::move(fd), iommufd_->ioas_id()).TakeOver());
                if (KibOf("VmPin") < 2048) return absl::InternalError("the new process does not pay for the memory");
                CPR_RETURN_IF_ERROR(view.EndCopy('b'));
                return view.Copy('c');
              }),
              IsOk());
  EXPECT_EQ(KibOf("VmPin"), pinned_kib - 2048);
  // That process has died with it.
  ASSERT_THAT(iommufd_->TakeOver(), IsOk());
  EXPECT_EQ(KibOf("VmPin"), pinned_kib);
  EXPECT_THAT(old_.Copy('d'), IsOk());
}

}  // namespace
}  // namespace cpr::vfio
