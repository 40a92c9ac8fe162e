#ifndef LIBCPR_PRESERVE_LIVE_UPDATE_UAPI_H_
#define LIBCPR_PRESERVE_LIVE_UPDATE_UAPI_H_

#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>

// What of <linux/liveupdate.h> we use, under names of our own: headers of a kernel before Linux 6.19 lack it.
// live_update_uapi_test holds it against the kernel's header where there is one. `size` in each is that of the struct.
// Source: Linux 7.2, include/uapi/linux/liveupdate.h.

namespace cpr {

inline constexpr size_t kLiveUpdateNameBytes = 64;  // with the NUL at its end

// Of the device, for both of its requests.
struct LiveUpdateNamed {
  uint32_t size;
  int32_t fd;  // out: the session
  char name[kLiveUpdateNameBytes];
};
static_assert(sizeof(LiveUpdateNamed) == 72);

// Of a session, to preserve a descriptor and to retrieve one.
struct LiveUpdateFd {
  uint32_t size;
  int32_t fd;  // in, and out of a retrieval
  uint64_t token;
};
static_assert(sizeof(LiveUpdateFd) == 16);

struct LiveUpdateFinish {
  uint32_t size;
  uint32_t reserved;
};
static_assert(sizeof(LiveUpdateFinish) == 8);

inline constexpr unsigned long kLiveUpdateCreateSession = _IO(0xba, 0x00);    // NOLINT(google-runtime-int): ioctl's
inline constexpr unsigned long kLiveUpdateRetrieveSession = _IO(0xba, 0x01);  // NOLINT(google-runtime-int)
inline constexpr unsigned long kLiveUpdatePreserveFd = _IO(0xba, 0x40);       // NOLINT(google-runtime-int)
inline constexpr unsigned long kLiveUpdateRetrieveFd = _IO(0xba, 0x41);       // NOLINT(google-runtime-int)
inline constexpr unsigned long kLiveUpdateFinish = _IO(0xba, 0x42);           // NOLINT(google-runtime-int)

}  // namespace cpr

#endif  // LIBCPR_PRESERVE_LIVE_UPDATE_UAPI_H_
