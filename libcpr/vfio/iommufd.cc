#include "libcpr/vfio/iommufd.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vfio/iommufd_uapi.h"
#include "libcpr/vfio/locked_memory.h"

namespace cpr::vfio {
namespace {

constexpr char kPath[] = "/dev/iommu";

std::string RangeName(uint64_t iova, uint64_t size_bytes) {
  return absl::StrCat("DMA mapping of ", size_bytes, " bytes at 0x", absl::Hex(iova));
}

}  // namespace

Iommufd::Iommufd(UniqueFd fd, uint32_t ioas_id, IoctlFunction ioctl)
    : fd_(std::move(fd)), ioas_id_(ioas_id), ioctl_(KernelsUnless(std::move(ioctl))) {}

absl::StatusOr<UniqueFd> Iommufd::Open() {
  UniqueFd fd(::open(kPath, O_RDWR | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, kPath);
  return fd;
}

absl::StatusOr<Iommufd> Iommufd::Create(UniqueFd fd, IoctlFunction ioctl) {
  Iommufd iommufd(std::move(fd), 0, std::move(ioctl));
  IoasAlloc alloc = {.size = sizeof(alloc), .flags = 0, .ioas_id = 0};
  CPR_RETURN_IF_ERROR(iommufd.Call(kIoasAlloc, "IOMMU_IOAS_ALLOC", &alloc));
  iommufd.ioas_id_ = alloc.ioas_id;
  return iommufd;
}

Iommufd Iommufd::Adopt(UniqueFd fd, uint32_t ioas_id, IoctlFunction ioctl) {
  return Iommufd(std::move(fd), ioas_id, std::move(ioctl));
}

absl::Status Iommufd::Call(unsigned long request, absl::string_view name, void* argument) const {
  return CallFd(fd_.get(), request, name, argument);
}

absl::Status Iommufd::CallFd(int fd, unsigned long request, absl::string_view name, void* argument) const {
  return ioctl_(fd, request, argument) < 0 ? ErrnoStatus(errno, name) : absl::OkStatus();
}

absl::StatusOr<uint32_t> Iommufd::Attach(int device_fd) {
  VfioBindIommufd bind = {.size = sizeof(bind), .flags = 0, .iommufd = fd_.get(), .device_id = 0};
  CPR_RETURN_IF_ERROR(CallFd(device_fd, kVfioBindIommufd, "VFIO_DEVICE_BIND_IOMMUFD", &bind));
  VfioAttachIommufd attach = {.size = sizeof(attach), .flags = 0, .page_table_id = ioas_id_};
  CPR_RETURN_IF_ERROR(ExplainLockedMemory(
      CallFd(device_fd, kVfioAttachIommufd, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", &attach), mapped_bytes_));
  return bind.device_id;
}

absl::Status Iommufd::Map(const FileDmaMapping& mapping) {
  IoasMapFile map = {.size = sizeof(map),
                     .flags = kIoasMapFixedIova | kIoasMapReadable | (mapping.writable ? kIoasMapWriteable : 0),
                     .ioas_id = ioas_id_,
                     .fd = mapping.fd,
                     .offset_bytes = mapping.offset_bytes,
                     .length_bytes = mapping.size_bytes,
                     .iova = mapping.iova};
  const absl::Status status = Call(kIoasMapFile, "IOMMU_IOAS_MAP_FILE", &map);
  if (StatusErrno(status) == ENOTTY) {
    return absl::UnimplementedError("the host's iommufd does not support IOMMU_IOAS_MAP_FILE");
  }
  if (status.ok()) mapped_bytes_ += mapping.size_bytes;
  return Annotate(ExplainLockedMemory(status, mapped_bytes_ + mapping.size_bytes),
                  RangeName(mapping.iova, mapping.size_bytes));
}

absl::Status Iommufd::MapVaddr(uint64_t iova, uint64_t size_bytes, uint8_t* vaddr) {
  IoasMap map = {.size = sizeof(map),
                 .flags = kIoasMapFixedIova | kIoasMapReadable | kIoasMapWriteable,
                 .ioas_id = ioas_id_,
                 .reserved = 0,
                 .vaddr = reinterpret_cast<uintptr_t>(vaddr),
                 .length_bytes = size_bytes,
                 .iova = iova};
  const absl::Status status = Call(kIoasMap, "IOMMU_IOAS_MAP", &map);
  if (status.ok()) mapped_bytes_ += size_bytes;
  return Annotate(ExplainLockedMemory(status, mapped_bytes_ + size_bytes), RangeName(iova, size_bytes));
}

absl::Status Iommufd::Unmap(uint64_t iova, uint64_t size_bytes) {
  IoasUnmap unmap = {.size = sizeof(unmap), .ioas_id = ioas_id_, .iova = iova, .length_bytes = size_bytes};
  const absl::Status status = Call(kIoasUnmap, "IOMMU_IOAS_UNMAP", &unmap);
  if (status.ok()) mapped_bytes_ -= std::min(mapped_bytes_, size_bytes);  // an adopted one has others'
  return Annotate(status, RangeName(iova, size_bytes));
}

absl::Status Iommufd::ChangeProcess() const {
  IoasChangeProcess change = {.size = sizeof(change), .reserved = 0};
  return Call(kIoasChangeProcess, "IOMMU_IOAS_CHANGE_PROCESS", &change);
}

absl::Status Iommufd::CheckHandover() const {
  const absl::Status status = ChangeProcess();
  const int error = StatusErrno(status);
  // It can; what it lacks is room for this process, which has come by execve and did without (see TakeOver).
  if (error == ENOMEM) return absl::OkStatus();
  if (error != ENOTTY && error != EINVAL) return status;
  return absl::UnimplementedError("vfio iommufd backend does not support IOMMU_IOAS_CHANGE_PROCESS");
}

absl::Status Iommufd::TakeOver() { return ExplainLockedMemory(ChangeProcess(), mapped_bytes_); }

}  // namespace cpr::vfio
