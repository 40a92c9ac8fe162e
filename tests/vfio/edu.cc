#include "tests/vfio/edu.h"

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr::testing {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPendingAt = 0x24, kAcknowledgeAt = 0x64;
constexpr size_t kSourceAt = 0x80, kTargetAt = 0x88, kCountAt = 0x90, kCommandAt = 0x98;

std::string FirstWord(const fs::path& path) {
  std::string word;
  std::ifstream(path) >> word;
  return word;
}

absl::Status Write(const fs::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good() ? absl::OkStatus() : absl::InternalError(absl::StrCat("write of ", path.string()));
}

absl::Status LetMasterTheBus(const vfio::Device& device) {
  CPR_ASSIGN_OR_RETURN(const vfio::Device::Region config, device.GetRegion(VFIO_PCI_CONFIG_REGION_INDEX));
  const uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
  const off_t at = static_cast<off_t>(config.offset_bytes + PCI_COMMAND);
  return ::pwrite(device.fd(), &command, sizeof(command), at) == sizeof(command) ? absl::OkStatus()
                                                                                 : ErrnoStatus(errno, "PCI command");
}

}  // namespace

absl::StatusOr<Edu::Place> Edu::Bind() {
  for (const fs::directory_entry& device : fs::directory_iterator("/sys/bus/pci/devices")) {
    if (FirstWord(device.path() / "vendor") != "0x1234" || FirstWord(device.path() / "device") != "0x11e8") continue;
    CPR_RETURN_IF_ERROR(Write(device.path() / "driver_override", "vfio-pci"));
    const std::string address = device.path().filename();
    if (!fs::exists(device.path() / "driver")) CPR_RETURN_IF_ERROR(Write("/sys/bus/pci/drivers_probe", address));
    const std::string group = fs::read_symlink(device.path() / "iommu_group").filename();
    const fs::directory_iterator node(device.path() / "vfio-dev");
    return Place{.address = address,
                 .group = absl::StrCat("/dev/vfio/", group),
                 .node = absl::StrCat("/dev/vfio/devices/", node->path().filename().string())};
  }
  return absl::NotFoundError("there is no PCI device 1234:11e8");
}

absl::StatusOr<Edu> Edu::Create(const vfio::Device& device) {
  CPR_RETURN_IF_ERROR(LetMasterTheBus(device));
  CPR_ASSIGN_OR_RETURN(const vfio::Device::Region bar, device.GetRegion(VFIO_PCI_BAR0_REGION_INDEX));
  CPR_ASSIGN_OR_RETURN(Mapping registers, Mapping::Create(device.fd(), bar.offset_bytes, bar.size_bytes));
  return Edu(std::move(registers));
}

void Edu::AcknowledgeInterrupt() {
  *reinterpret_cast<volatile uint32_t*>(registers_.data() + kAcknowledgeAt) =
      *reinterpret_cast<volatile uint32_t*>(registers_.data() + kPendingAt);
}

void Edu::Start(uint64_t from, uint64_t to, uint32_t size_bytes, uint64_t command) {
  Register(kSourceAt) = from;
  Register(kTargetAt) = to;
  Register(kCountAt) = size_bytes;
  Register(kCommandAt) = command;
}

absl::Status Edu::AwaitDma(absl::Duration limit) const {
  const absl::Time deadline = absl::Now() + limit;
  while ((Register(kCommandAt) & kStart) != 0) {
    if (absl::Now() > deadline) return absl::DeadlineExceededError("the device does not end its DMA");
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::OkStatus();
}

}  // namespace cpr::testing
