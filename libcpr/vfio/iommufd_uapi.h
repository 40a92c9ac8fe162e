#ifndef LIBCPR_VFIO_IOMMUFD_UAPI_H_
#define LIBCPR_VFIO_IOMMUFD_UAPI_H_

#include <sys/ioctl.h>

#include <cstdint>

// What of <linux/iommufd.h>, and of it in <linux/vfio.h>, we use, under names of our own: Debian 12 has no such header,
// and later ones lack the last two requests. iommufd_uapi_test holds it against the kernel's header where there is one.
// `size` in each is that of the struct. Source: Linux 6.14, include/uapi/linux/iommufd.h.

namespace cpr::vfio {

struct IommufdDestroy {
  uint32_t size;
  uint32_t id;
};
static_assert(sizeof(IommufdDestroy) == 8);

struct IoasAlloc {
  uint32_t size;
  uint32_t flags;
  uint32_t ioas_id;  // out
};
static_assert(sizeof(IoasAlloc) == 12);

struct IoasMap {
  uint32_t size;
  uint32_t flags;  // kIoasMap...
  uint32_t ioas_id;
  uint32_t reserved;
  uint64_t vaddr;
  uint64_t length_bytes;
  uint64_t iova;
};
static_assert(sizeof(IoasMap) == 40);

struct IoasMapFile {
  uint32_t size;
  uint32_t flags;  // kIoasMap...
  uint32_t ioas_id;
  int32_t fd;
  uint64_t offset_bytes;
  uint64_t length_bytes;
  uint64_t iova;
};
static_assert(sizeof(IoasMapFile) == 40);

struct IoasUnmap {
  uint32_t size;
  uint32_t ioas_id;
  uint64_t iova;
  uint64_t length_bytes;
};
static_assert(sizeof(IoasUnmap) == 24);

struct IoasChangeProcess {
  uint32_t size;
  uint32_t reserved;
};
static_assert(sizeof(IoasChangeProcess) == 8);

// Of a device's fd. The kernel calls the size argsz there.
struct VfioBindIommufd {
  uint32_t size;
  uint32_t flags;
  int32_t iommufd;
  uint32_t device_id;  // out
};
static_assert(sizeof(VfioBindIommufd) == 16);

struct VfioAttachIommufd {
  uint32_t size;
  uint32_t flags;
  uint32_t page_table_id;  // in: an address space's; out: that of the page table behind it
};
static_assert(sizeof(VfioAttachIommufd) == 12);

inline constexpr uint32_t kIoasMapFixedIova = 1, kIoasMapWriteable = 2, kIoasMapReadable = 4;

inline constexpr unsigned long kIommufdDestroy = _IO(';', 0x80);     // NOLINT(google-runtime-int): ioctl's
inline constexpr unsigned long kIoasAlloc = _IO(';', 0x81);          // NOLINT(google-runtime-int)
inline constexpr unsigned long kIoasMap = _IO(';', 0x85);            // NOLINT(google-runtime-int)
inline constexpr unsigned long kIoasUnmap = _IO(';', 0x86);          // NOLINT(google-runtime-int)
inline constexpr unsigned long kIoasMapFile = _IO(';', 0x8f);        // NOLINT(google-runtime-int)
inline constexpr unsigned long kIoasChangeProcess = _IO(';', 0x92);  // NOLINT(google-runtime-int)

inline constexpr unsigned long kVfioBindIommufd = _IO(';', 118);    // NOLINT(google-runtime-int)
inline constexpr unsigned long kVfioAttachIommufd = _IO(';', 119);  // NOLINT(google-runtime-int)

}  // namespace cpr::vfio

#endif  // LIBCPR_VFIO_IOMMUFD_UAPI_H_
