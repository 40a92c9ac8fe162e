// Has the host's VFIO report that the device of another process has failed, as if by AER: for scenarios of the testbed,
// whose devices do not fail.
//
//   fail_device PID
//
// Source: <linux/vfio.h>, VFIO_IRQ_SET_DATA_NONE ("DATA_NONE/DATA_BOOL enables loopback testing").
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "libcpr/base/unique_fd.h"

namespace cpr {
namespace {

bool IsVfioDevice(const std::filesystem::path& link) {
  std::error_code error;
  const std::string target = std::filesystem::read_symlink(link, error).string();
  return target == "anon_inode:[vfio-device]" || target.rfind("/dev/vfio/devices/", 0) == 0;
}

bool Fail(int device) {
  vfio_irq_set set = {};
  set.argsz = sizeof(set);
  set.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
  set.index = VFIO_PCI_ERR_IRQ_INDEX;
  set.count = 1;
  if (::ioctl(device, VFIO_DEVICE_SET_IRQS, &set) == 0) return true;
  std::perror("VFIO_DEVICE_SET_IRQS");
  return false;
}

int FailDeviceOf(const char* pid) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, std::atoi(pid), 0)));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(std::string("/proc/") + pid + "/fd", error)) {
    if (!IsVfioDevice(entry.path())) continue;
    const int number = std::atoi(entry.path().filename().c_str());
    const UniqueFd device(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    return Fail(device.get()) ? 0 : 1;
  }
  std::fprintf(stderr, "process %s has no VFIO device open\n", pid);
  return 1;
}

}  // namespace
}  // namespace cpr

int main(int argc, char** argv) {
  if (argc == 2) return cpr::FailDeviceOf(argv[1]);
  std::fprintf(stderr, "usage: fail_device PID\n");
  return 2;
}
