#include "vmm/vfio/host_device.h"

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"

namespace cpr {
namespace {

using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr char kAddress[] = "0000:00:04.0";

class HostDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    device_ = std::filesystem::path(folder_.path()) / "bus/pci/devices" / kAddress;
    std::filesystem::create_directories(device_);
  }
  void Link(const std::string& name, const std::string& target) {
    std::filesystem::create_symlink(std::filesystem::path("../../../../") / target, device_ / name);
  }
  absl::StatusOr<VfioHostDevice> Find() { return FindVfioHostDevice(kAddress, folder_.path()); }

  testing::TempFolder folder_;
  std::filesystem::path device_;
};

TEST_F(HostDeviceTest, GroupAndNodeAreFound) {
  Link("driver", "bus/pci/drivers/vfio-pci");
  Link("iommu_group", "kernel/iommu_groups/17");
  std::filesystem::create_directories(device_ / "vfio-dev/vfio3");
  CPR_ASSERT_OK_AND_ASSIGN(const VfioHostDevice found, Find());
  EXPECT_EQ(found.group, 17u);
  EXPECT_EQ(found.node, "/dev/vfio/devices/vfio3");
}

TEST_F(HostDeviceTest, DeviceOfAnotherDriverIsRefusedWithItsName) {
  Link("driver", "bus/pci/drivers/nvme");
  EXPECT_THAT(Find(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("driver is nvme")));
}

TEST_F(HostDeviceTest, DeviceWithoutDriverIsRefused) {
  EXPECT_THAT(Find(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("has no driver")));
}

TEST_F(HostDeviceTest, DeviceWithoutIommuIsRefused) {
  Link("driver", "bus/pci/drivers/vfio-pci");
  EXPECT_THAT(Find(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("IOMMU")));
}

TEST_F(HostDeviceTest, OthersOfAGroupAreNamedWithTheirDrivers) {
  const std::filesystem::path sysfs = folder_.path();
  std::filesystem::create_directories(sysfs / "kernel/iommu_groups/17/devices");
  const auto add = [&](const std::string& address, const std::string& driver) {
    std::filesystem::create_directories(sysfs / "bus/pci/devices" / address);
    if (!driver.empty()) {
      std::filesystem::create_symlink("../../drivers/" + driver, sysfs / "bus/pci/devices" / address / "driver");
    }
    std::filesystem::create_symlink("../../../../bus/pci/devices/" + address,
                                    sysfs / "kernel/iommu_groups/17/devices" / address);
  };
  add("0000:00:05.0", "vfio-pci");
  add("0000:00:05.1", "");
  add("0000:00:01.0", "pcieport");
  add("0000:00:05.4", "mlx5_vfio_pci");
  std::filesystem::create_directories(sysfs / "bus/pci/devices/0000:00:05.4/vfio-dev/vfio4");
  EXPECT_EQ(WhoHasVfioGroup(17, folder_.path()), "perhaps another VM has one of them");
  add("0000:00:05.3", "nvme");
  add("0000:00:05.2", "e1000e");
  EXPECT_EQ(WhoHasVfioGroup(17, folder_.path()), "0000:00:05.2 is bound to e1000e, 0000:00:05.3 is bound to nvme");
}

TEST_F(HostDeviceTest, AddressOfNothingIsRefused) {
  EXPECT_THAT(FindVfioHostDevice("0000:00:1f.7", folder_.path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("0000:00:1f.7")));
}

}  // namespace
}  // namespace cpr
