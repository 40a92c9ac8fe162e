#include "vmm/vfio/host_device.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace cpr {
namespace {

// The last part of what a link points at; empty: no such link.
std::string LinkName(const std::filesystem::path& link) {
  std::error_code error;
  return std::filesystem::read_symlink(link, error).filename().string();
}

std::string NodeOf(const std::filesystem::path& device) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(device / "vfio-dev", error)) {
    return absl::StrCat("/dev/vfio/devices/", entry.path().filename().string());
  }
  return "";
}

// Whether a group stays viable with this device in it: it has no driver, or one that does no DMA of its own
// (`driver_managed_dma` in Linux). Those are vfio-pci and all others that give VFIO a device (mlx5_vfio_pci and so on),
// which is seen by its node; pci-stub, a driver of the kernel that only keeps others away; and that of PCI Express
// ports.
bool IsHarmless(const std::filesystem::path& device) {
  const std::string driver = LinkName(device / "driver");
  return driver.empty() || driver == "vfio-pci" || driver == "pci-stub" || driver == "pcieport" ||
         !NodeOf(device).empty();
}

}  // namespace

std::string WhoHasVfioGroup(uint32_t group, const std::string& sysfs) {
  std::vector<std::string> users;
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::path(sysfs) / "kernel/iommu_groups" / absl::StrCat(group);
  for (const auto& device : std::filesystem::directory_iterator(folder / "devices", error)) {
    if (IsHarmless(device.path())) continue;
    users.push_back(
        absl::StrCat(device.path().filename().string(), " is bound to ", LinkName(device.path() / "driver")));
  }
  std::sort(users.begin(), users.end());
  return users.empty() ? "perhaps another VM has one of them" : absl::StrJoin(users, ", ");
}

absl::StatusOr<VfioHostDevice> FindVfioHostDevice(const std::string& address, const std::string& sysfs) {
  const std::filesystem::path device = std::filesystem::path(sysfs) / "bus/pci/devices" / address;
  std::error_code error;
  if (!std::filesystem::exists(device, error)) {
    return absl::NotFoundError(absl::StrCat("no such host device: ", device.string()));
  }
  const std::string driver = LinkName(device / "driver");
  if (driver != "vfio-pci") {
    return absl::FailedPreconditionError(
        absl::StrCat(driver.empty() ? "the host device has no driver" : absl::StrCat("the host's driver is ", driver),
                     "; it has to be bound to vfio-pci"));
  }
  VfioHostDevice found = {.address = address, .group = 0, .node = NodeOf(device)};
  if (!absl::SimpleAtoi(LinkName(device / "iommu_group"), &found.group)) {
    return absl::FailedPreconditionError("no iommu_group found: the host has no IOMMU, or it is not switched on");
  }
  return found;
}

}  // namespace cpr
