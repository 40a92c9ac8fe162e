// A real device's memory changes hands between processes while its DMA is under way, by a type 1 container and by an
// iommufd. For a host with an IOMMU and QEMU's edu device: the testbed's scenario vfio runs it.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/vfio.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
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
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vfio/device.h"
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

// That `eventfd` has been signalled so often since the last look; waits for the first.
absl::Status ExpectCount(int eventfd, uint64_t count) {
  pollfd readable = {eventfd, POLLIN, 0};
  eventfd_t seen = 0;
  if (count != 0 && ::poll(&readable, 1, 10'000) != 1) return absl::DeadlineExceededError("no interrupt");
  if (::eventfd_read(eventfd, &seen) != 0 && errno != EAGAIN) return ErrnoStatus(errno, "eventfd");
  return seen == count ? absl::OkStatus() : absl::DataLossError(absl::StrCat(seen, " interrupts, not ", count));
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
  void BeginCopy(char with, bool interrupt = false) {
    std::memset(ram.data(), with, kBytes);
    std::memset(ram.data() + kHalfBytes, 0, kBytes);
    edu->ReadFrom(kLowIova, kBytes, interrupt);
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
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, DupFd(device_->fd()));
    CPR_ASSIGN_OR_RETURN(Edu edu, Edu::Create(Device::Adopt(std::move(fd))));
    view.edu.emplace(std::move(edu));
    return view;
  }

  Edu::Place place_;
  UniqueFd ram_;
  std::optional<Device> device_;
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
    CPR_ASSERT_OK_AND_ASSIGN(Device device, Device::OpenInGroup(group_.get(), place_.address));
    device_.emplace(std::move(device));
    CPR_ASSERT_OK_AND_ASSIGN(Edu edu, Edu::Create(*device_));
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

// As an eventfd of a vCPU's interrupt would be: nobody reads it while the device changes hands.
TEST_F(Type1HandoverTest, AnMsiThatComesMeanwhileIsFoundInTheNewProcess) {
  const UniqueFd interrupt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_THAT(device_->ConnectInterrupts(VFIO_PCI_MSI_IRQ_INDEX, 0, {interrupt.get()}), IsOk());
  old_.BeginCopy('b', /*interrupt=*/true);
  ASSERT_THAT(container_->ReleaseMappings(), IsOk());
  ASSERT_THAT(old_.edu->AwaitDma(), IsOk());
  EXPECT_THAT(InAnotherProcess([&]() -> absl::Status {
                CPR_ASSIGN_OR_RETURN(View view, MakeView());
                CPR_ASSIGN_OR_RETURN(Type1Container container, Adopt(view.Mappings()));
                CPR_RETURN_IF_ERROR(container.TakeMappings());
                CPR_RETURN_IF_ERROR(ExpectCount(interrupt.get(), 1));
                for (const char letter : {'c', 'd'}) {
                  view.edu->AcknowledgeInterrupt();
                  view.BeginCopy(letter, /*interrupt=*/true);
                  CPR_RETURN_IF_ERROR(view.EndCopy(letter));
                }
                return ExpectCount(interrupt.get(), 2);
              }),
              IsOk());
  ASSERT_THAT(container_->ReclaimMappings(), IsOk());
}

// The kernel masks an INTx when it comes: in the new process it is still masked, and unmasking it brings it back, as
// nobody has acknowledged it.
TEST_F(Type1HandoverTest, AnIntxIsStillMaskedAndPendingInTheNewProcess) {
  const UniqueFd interrupt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_THAT(device_->ConnectInterrupts(VFIO_PCI_INTX_IRQ_INDEX, 0, {interrupt.get()}), IsOk());
  old_.BeginCopy('b', /*interrupt=*/true);
  ASSERT_THAT(container_->ReleaseMappings(), IsOk());
  ASSERT_THAT(old_.edu->AwaitDma(), IsOk());
  EXPECT_THAT(InAnotherProcess([&]() -> absl::Status {
                CPR_ASSIGN_OR_RETURN(UniqueFd fd, DupFd(device_->fd()));
                const Device device = Device::Adopt(std::move(fd));
                CPR_ASSIGN_OR_RETURN(View view, MakeView());
                CPR_ASSIGN_OR_RETURN(Type1Container container, Adopt(view.Mappings()));
                CPR_RETURN_IF_ERROR(container.TakeMappings());
                CPR_RETURN_IF_ERROR(ExpectCount(interrupt.get(), 1));
                CPR_RETURN_IF_ERROR(device.UnmaskIntx());
                CPR_RETURN_IF_ERROR(ExpectCount(interrupt.get(), 1));
                view.edu->AcknowledgeInterrupt();
                CPR_RETURN_IF_ERROR(device.UnmaskIntx());
                return ExpectCount(interrupt.get(), 0);
              }),
              IsOk());
  ASSERT_THAT(container_->ReclaimMappings(), IsOk());
}

class IommufdHandoverTest : public VfioHandoverTest {
 protected:
  void SetUp() override {
    VfioHandoverTest::SetUp();
    ASSERT_THAT(DropIpcLock(), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(UniqueFd fd, Iommufd::Open());
    CPR_ASSERT_OK_AND_ASSIGN(Iommufd iommufd, Iommufd::Create(std::move(fd)));
    iommufd_.emplace(std::move(iommufd));
    CPR_ASSERT_OK_AND_ASSIGN(Device device, Device::OpenNode(place_.node));
    device_.emplace(std::move(device));
    ASSERT_THAT(iommufd_->Attach(device_->fd()).status(), IsOk());
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
