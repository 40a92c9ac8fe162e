#ifndef LIBCPR_VFIO_DEVICE_H_
#define LIBCPR_VFIO_DEVICE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "libcpr/base/ioctl_function.h"
#include "libcpr/base/unique_fd.h"

namespace cpr::vfio {

// A device's fd: its regions and its interrupts. In a handover the fd and the eventfds of its interrupts go to the new
// process, which adopts it and calls nothing: the device goes on, the kernel signals the same eventfds, and what nobody
// has read gathers in them. Closing the last copy of the fd resets the device.
// Thread-compatible. Errors name the request that the kernel refused, and carry errno.
// Source: <linux/vfio.h>.
class Device {
 public:
  // The device with that PCI address ("0000:00:04.0") of a group (lent) that is in a container. An empty `ioctl` is the
  // kernel's. kNotFound: the group has no such device.
  static absl::StatusOr<Device> OpenInGroup(int group_fd, const std::string& address, IoctlFunction ioctl = {});
  // A device's node, /dev/vfio/devices/vfioN. Nothing but Iommufd::Attach may be done with it before that.
  static absl::StatusOr<Device> OpenNode(const std::string& path, IoctlFunction ioctl = {});
  // Calls nothing.
  static Device Adopt(UniqueFd fd, IoctlFunction ioctl = {});

  int fd() const { return fd_.get(); }  // lent

  // VFIO_PCI_BAR0_REGION_INDEX and so on: `size_bytes` from `offset_bytes` on of the fd, to pread and pwrite, and to
  // mmap where it is mappable. Size 0: the device has no such region.
  struct Region {
    uint64_t offset_bytes = 0;
    uint64_t size_bytes = 0;
    bool readable = false, writable = false, mappable = false;
  };
  absl::StatusOr<Region> GetRegion(uint32_t index) const;

  // How many interrupts of a kind (VFIO_PCI_MSI_IRQ_INDEX and so on) the device has.
  absl::StatusOr<uint32_t> CountInterrupts(uint32_t kind) const;
  // From now on interrupt `first` + i of the kind signals eventfds[i] (lent to the call; the kernel keeps the file);
  // -1: none. The device is switched to that kind; another one has to be disconnected before.
  absl::Status ConnectInterrupts(uint32_t kind, uint32_t first, absl::Span<const int> eventfds) const;
  // Switches a kind off.
  absl::Status DisconnectInterrupts(uint32_t kind) const;
  // An INTx is masked by the kernel when it comes. This unmasks it; with an eventfd (lent to the call) each signal to
  // that does: KVM's resamplefd.
  absl::Status UnmaskIntx() const;
  absl::Status UnmaskIntxBy(int eventfd) const;

  // kUnimplemented: the device cannot be reset by itself.
  absl::Status Reset() const;

 private:
  Device(UniqueFd fd, IoctlFunction ioctl);
  absl::StatusOr<int> Call(unsigned long request, absl::string_view name, void* argument) const;  // NOLINT
  absl::Status SetInterrupts(uint32_t flags, uint32_t kind, uint32_t first, uint32_t count,
                             absl::Span<const int> eventfds) const;

  UniqueFd fd_;
  IoctlFunction ioctl_;
};

}  // namespace cpr::vfio

#endif  // LIBCPR_VFIO_DEVICE_H_
