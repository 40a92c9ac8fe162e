#include "libcpr/vfio/device.h"

#include <linux/vfio.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_util.h"
#include "libcpr/testing/matchers.h"

namespace cpr::vfio {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kGroup = 7, kDevice = 9;  // fds
constexpr uint32_t kMsiCount = 4;

// Stands in for the kernel's half of a PCI device: one BAR, INTx, and MSI with four vectors; one kind at a time.
struct FakeDevice {
  std::optional<uint32_t> kind;      // that is on
  std::map<uint32_t, int> eventfds;  // by vector
  std::vector<int> unmasked_by;      // eventfds; -1: by a call
  bool can_reset = true;
  size_t resets = 0;

  IoctlFunction Ioctl() {
    return [this](int fd, unsigned long request, void* argument) {
      const int result = Answer(fd, request, argument);
      if (result >= 0) return result;
      errno = -result;
      return -1;
    };
  }

 private:
  int Answer(int fd, unsigned long request, void* argument) {  // NOLINT(google-runtime-int)
    if (request == VFIO_GROUP_GET_DEVICE_FD) {
      return fd == kGroup && std::string(static_cast<const char*>(argument)) == "0000:00:04.0" ? kDevice : -ENODEV;
    }
    if (request == VFIO_DEVICE_GET_REGION_INFO) return Region(*static_cast<vfio_region_info*>(argument));
    if (request == VFIO_DEVICE_GET_IRQ_INFO) return Count(*static_cast<vfio_irq_info*>(argument));
    if (request == VFIO_DEVICE_SET_IRQS) return Set(static_cast<const uint8_t*>(argument));
    if (request != VFIO_DEVICE_RESET) return -ENOTTY;
    if (!can_reset) return -EINVAL;
    ++resets;
    return 0;
  }
  static int Region(vfio_region_info& info) {
    if (info.argsz < sizeof(info) || info.index >= VFIO_PCI_NUM_REGIONS) return -EINVAL;
    info.offset = uint64_t{info.index} << 40;
    info.size = info.index == VFIO_PCI_BAR0_REGION_INDEX ? 1 << 20 : 0;
    info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | VFIO_REGION_INFO_FLAG_MMAP;
    return 0;
  }
  static int Count(vfio_irq_info& info) {
    if (info.argsz < sizeof(info) || info.index >= VFIO_PCI_NUM_IRQS) return -EINVAL;
    info.count = CountOf(info.index);
    return 0;
  }
  static uint32_t CountOf(uint32_t index) {
    return index == VFIO_PCI_INTX_IRQ_INDEX ? 1 : index == VFIO_PCI_MSI_IRQ_INDEX ? kMsiCount : 0;
  }
  int Set(const uint8_t* bytes) {
    vfio_irq_set set;
    std::memcpy(&set, bytes, sizeof(set));
    const bool with_eventfds = (set.flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0;
    if (set.argsz != sizeof(set) + (with_eventfds ? set.count * sizeof(int32_t) : 0)) return -EINVAL;
    if (set.start + set.count > CountOf(set.index)) return -EINVAL;
    std::vector<int> given(with_eventfds ? set.count : 0);
    if (with_eventfds) std::memcpy(given.data(), bytes + sizeof(set), given.size() * sizeof(int32_t));
    return (set.flags & VFIO_IRQ_SET_ACTION_UNMASK) != 0 ? Unmask(set, given) : Trigger(set, given);
  }
  int Unmask(const vfio_irq_set& set, const std::vector<int>& given) {
    if (kind != uint32_t{VFIO_PCI_INTX_IRQ_INDEX} || set.index != VFIO_PCI_INTX_IRQ_INDEX) return -EINVAL;
    unmasked_by.push_back(given.empty() ? -1 : given[0]);
    return 0;
  }
  int Trigger(const vfio_irq_set& set, const std::vector<int>& given) {
    if (kind.has_value() && kind != set.index) return -EINVAL;
    if (set.count == 0) {
      kind.reset();
      eventfds.clear();
      return 0;
    }
    kind = set.index;
    for (uint32_t i = 0; i < set.count; ++i) eventfds[set.start + i] = given[i];
    return 0;
  }
};

class DeviceTest : public ::testing::Test {
 protected:
  Device Adopted() { return Device::Adopt(UniqueFd(), kernel_.Ioctl()); }

  FakeDevice kernel_;
};

TEST_F(DeviceTest, AnAddressThatIsNotInTheGroupIsNamed) {
  EXPECT_THAT(Device::OpenInGroup(kGroup, "0000:00:05.0", kernel_.Ioctl()).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("0000:00:05.0")));
}

TEST_F(DeviceTest, RegionsAreWhereTheKernelSays) {
  const Device device = Adopted();
  CPR_ASSERT_OK_AND_ASSIGN(const Device::Region bar, device.GetRegion(VFIO_PCI_BAR0_REGION_INDEX));
  EXPECT_EQ(bar.size_bytes, 1u << 20);
  EXPECT_TRUE(bar.readable && bar.writable && bar.mappable);
  CPR_ASSERT_OK_AND_ASSIGN(const Device::Region rom, device.GetRegion(VFIO_PCI_ROM_REGION_INDEX));
  EXPECT_EQ(rom.size_bytes, 0u);
  EXPECT_THAT(device.GetRegion(99).status().message(), HasSubstr("region 99: VFIO_DEVICE_GET_REGION_INFO"));
}

TEST_F(DeviceTest, VectorsSignalTheirEventfds) {
  const Device device = Adopted();
  CPR_ASSERT_OK_AND_ASSIGN(const uint32_t count, device.CountInterrupts(VFIO_PCI_MSI_IRQ_INDEX));
  EXPECT_EQ(count, kMsiCount);
  ASSERT_THAT(device.ConnectInterrupts(VFIO_PCI_MSI_IRQ_INDEX, 0, {20, 21}), IsOk());
  ASSERT_THAT(device.ConnectInterrupts(VFIO_PCI_MSI_IRQ_INDEX, 1, {-1, 32}), IsOk());
  EXPECT_THAT(kernel_.eventfds, ElementsAre(std::pair{0u, 20}, std::pair{1u, -1}, std::pair{2u, 32}));
  ASSERT_THAT(device.DisconnectInterrupts(VFIO_PCI_MSI_IRQ_INDEX), IsOk());
  EXPECT_THAT(kernel_.eventfds, IsEmpty());
}

TEST_F(DeviceTest, WhatTheKernelRefusesIsNamedByItsKind) {
  const Device device = Adopted();
  const absl::Status too_many = device.ConnectInterrupts(VFIO_PCI_MSI_IRQ_INDEX, 3, {20, 21});
  EXPECT_EQ(StatusErrno(too_many), EINVAL);
  EXPECT_THAT(too_many.message(), AllOf(HasSubstr("MSI: "), HasSubstr("VFIO_DEVICE_SET_IRQS")));
  ASSERT_THAT(device.ConnectInterrupts(VFIO_PCI_INTX_IRQ_INDEX, 0, {20}), IsOk());
  EXPECT_THAT(device.ConnectInterrupts(VFIO_PCI_MSI_IRQ_INDEX, 0, {20}).message(), HasSubstr("MSI: "));
}

TEST_F(DeviceTest, AnIntxIsUnmaskedByACallOrByAnEventfd) {
  const Device device = Adopted();
  ASSERT_THAT(device.ConnectInterrupts(VFIO_PCI_INTX_IRQ_INDEX, 0, {20}), IsOk());
  EXPECT_THAT(device.UnmaskIntx(), IsOk());
  EXPECT_THAT(device.UnmaskIntxBy(30), IsOk());
  EXPECT_THAT(kernel_.unmasked_by, ElementsAre(-1, 30));
}

TEST_F(DeviceTest, ADeviceWithoutResetIsSaidToBe) {
  const Device device = Adopted();
  EXPECT_THAT(device.Reset(), IsOk());
  EXPECT_EQ(kernel_.resets, 1u);
  kernel_.can_reset = false;
  EXPECT_THAT(device.Reset(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("VFIO_DEVICE_RESET")));
}

}  // namespace
}  // namespace cpr::vfio
