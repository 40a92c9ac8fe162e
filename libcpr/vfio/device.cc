#include "libcpr/vfio/device.h"

#include <fcntl.h>
#include <linux/vfio.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

// The request with its name.
#define CPR_VFIO_REQUEST(request) (request), #request

namespace cpr::vfio {
namespace {

std::string KindName(uint32_t kind) {
  switch (kind) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      return "INTx";
    case VFIO_PCI_MSI_IRQ_INDEX:
      return "MSI";
    case VFIO_PCI_MSIX_IRQ_INDEX:
      return "MSI-X";
    case VFIO_PCI_ERR_IRQ_INDEX:
      return "error interrupt";
    case VFIO_PCI_REQ_IRQ_INDEX:
      return "release request";
  }
  return absl::StrCat("interrupt kind ", kind);
}

}  // namespace

Device::Device(UniqueFd fd, IoctlFunction ioctl) : fd_(std::move(fd)), ioctl_(KernelsUnless(std::move(ioctl))) {}

absl::StatusOr<Device> Device::OpenInGroup(int group_fd, const std::string& address, IoctlFunction ioctl) {
  ioctl = KernelsUnless(std::move(ioctl));
  const int fd = ioctl(group_fd, VFIO_GROUP_GET_DEVICE_FD, const_cast<char*>(address.c_str()));
  if (fd >= 0) return Device(UniqueFd(fd), std::move(ioctl));
  // The kernel's answer for an address that is none of the group's.
  if (errno == ENODEV) return absl::NotFoundError(absl::StrCat("the group has no device ", address));
  return ErrnoStatus(errno, absl::StrCat(address, ": VFIO_GROUP_GET_DEVICE_FD"));
}

absl::StatusOr<Device> Device::OpenNode(const std::string& path, IoctlFunction ioctl) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, path);
  return Device(std::move(fd), std::move(ioctl));
}

Device Device::Adopt(UniqueFd fd, IoctlFunction ioctl) { return Device(std::move(fd), std::move(ioctl)); }

absl::StatusOr<int> Device::Call(unsigned long request, absl::string_view name, void* argument) const {
  const int result = ioctl_(fd_.get(), request, argument);
  if (result < 0) return ErrnoStatus(errno, name);
  return result;
}

absl::StatusOr<Device::Region> Device::GetRegion(uint32_t index) const {
  vfio_region_info info = {};
  info.argsz = sizeof(info);
  info.index = index;
  CPR_RETURN_IF_ERROR(
      Annotate(Call(CPR_VFIO_REQUEST(VFIO_DEVICE_GET_REGION_INFO), &info).status(), absl::StrCat("region ", index)));
  return Region{.offset_bytes = info.offset,
                .size_bytes = info.size,
                .readable = (info.flags & VFIO_REGION_INFO_FLAG_READ) != 0,
                .writable = (info.flags & VFIO_REGION_INFO_FLAG_WRITE) != 0,
                .mappable = (info.flags & VFIO_REGION_INFO_FLAG_MMAP) != 0};
}

absl::StatusOr<uint32_t> Device::CountInterrupts(uint32_t kind) const {
  vfio_irq_info info = {};
  info.argsz = sizeof(info);
  info.index = kind;
  CPR_RETURN_IF_ERROR(Annotate(Call(CPR_VFIO_REQUEST(VFIO_DEVICE_GET_IRQ_INFO), &info).status(), KindName(kind)));
  return info.count;
}

absl::Status Device::SetInterrupts(uint32_t flags, uint32_t kind, uint32_t first, uint32_t count,
                                   absl::Span<const int> eventfds) const {
  std::vector<uint8_t> bytes(sizeof(vfio_irq_set) + eventfds.size() * sizeof(int32_t));
  vfio_irq_set set = {};
  set.argsz = static_cast<uint32_t>(bytes.size());
  set.flags = flags;
  set.index = kind;
  set.start = first;
  set.count = count;
  std::memcpy(bytes.data(), &set, sizeof(set));
  if (!eventfds.empty()) std::memcpy(bytes.data() + sizeof(set), eventfds.data(), eventfds.size() * sizeof(int32_t));
  return Annotate(Call(CPR_VFIO_REQUEST(VFIO_DEVICE_SET_IRQS), bytes.data()).status(), KindName(kind));
}

absl::Status Device::ConnectInterrupts(uint32_t kind, uint32_t first, absl::Span<const int> eventfds) const {
  return SetInterrupts(VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, kind, first,
                       static_cast<uint32_t>(eventfds.size()), eventfds);
}

absl::Status Device::DisconnectInterrupts(uint32_t kind) const {
  return SetInterrupts(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, kind, 0, 0, {});
}

absl::Status Device::UnmaskIntx() const {
  return SetInterrupts(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, {});
}

absl::Status Device::UnmaskIntxBy(int eventfd) const {
  return SetInterrupts(VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX, 0, 1,
                       {&eventfd, 1});
}

absl::Status Device::Reset() const {
  const absl::Status status = Call(CPR_VFIO_REQUEST(VFIO_DEVICE_RESET), nullptr).status();
  if (StatusErrno(status) != EINVAL && StatusErrno(status) != ENOTTY) return status;
  return absl::UnimplementedError("VFIO_DEVICE_RESET: the device cannot be reset by itself");
}

}  // namespace cpr::vfio
