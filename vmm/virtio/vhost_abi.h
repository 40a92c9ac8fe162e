#ifndef VMM_VIRTIO_VHOST_ABI_H_
#define VMM_VIRTIO_VHOST_ABI_H_

#include <sys/ioctl.h>

#include <cstdint>

// What /dev/vhost-net is told, each request with its name: <linux/vhost.h>, which as it stands is not C++.

namespace cpr {

struct VhostRingState {
  uint32_t index;  // of the queue; so in all that are about one
  uint32_t value;
};
static_assert(sizeof(VhostRingState) == 8);

struct VhostRingFile {
  uint32_t index;
  int32_t fd;  // -1: none
};
static_assert(sizeof(VhostRingFile) == 8);

struct VhostRingAddresses {
  uint32_t index;
  uint32_t flags;
  uint64_t descriptors_hva;
  uint64_t used_hva;
  uint64_t available_hva;
  uint64_t log_gpa;
};
static_assert(sizeof(VhostRingAddresses) == 40);

// Behind it as many regions.
struct VhostMemory {
  uint32_t regions;
  uint32_t padding;
};
static_assert(sizeof(VhostMemory) == 8);

struct VhostMemoryRegion {
  uint64_t gpa;
  uint64_t size_bytes;
  uint64_t hva;
  uint64_t padding;
};
static_assert(sizeof(VhostMemoryRegion) == 32);

struct VhostRequest {
  unsigned long number;  // NOLINT(google-runtime-int): ioctl's
  const char* name;
};
inline constexpr VhostRequest kVhostGetFeatures = {_IOR(0xaf, 0x00, uint64_t), "VHOST_GET_FEATURES"};
inline constexpr VhostRequest kVhostSetFeatures = {_IOW(0xaf, 0x00, uint64_t), "VHOST_SET_FEATURES"};
inline constexpr VhostRequest kVhostSetOwner = {_IO(0xaf, 0x01), "VHOST_SET_OWNER"};
inline constexpr VhostRequest kVhostResetOwner = {_IO(0xaf, 0x02), "VHOST_RESET_OWNER"};
inline constexpr VhostRequest kVhostSetMemory = {_IOW(0xaf, 0x03, VhostMemory), "VHOST_SET_MEM_TABLE"};
inline constexpr VhostRequest kVhostSetRingSize = {_IOW(0xaf, 0x10, VhostRingState), "VHOST_SET_VRING_NUM"};
inline constexpr VhostRequest kVhostSetRingAddresses = {_IOW(0xaf, 0x11, VhostRingAddresses), "VHOST_SET_VRING_ADDR"};
inline constexpr VhostRequest kVhostSetRingBase = {_IOW(0xaf, 0x12, VhostRingState), "VHOST_SET_VRING_BASE"};
inline constexpr VhostRequest kVhostGetRingBase = {_IOWR(0xaf, 0x12, VhostRingState), "VHOST_GET_VRING_BASE"};
inline constexpr VhostRequest kVhostSetRingKick = {_IOW(0xaf, 0x20, VhostRingFile), "VHOST_SET_VRING_KICK"};
inline constexpr VhostRequest kVhostSetRingCall = {_IOW(0xaf, 0x21, VhostRingFile), "VHOST_SET_VRING_CALL"};
inline constexpr VhostRequest kVhostNetSetBackend = {_IOW(0xaf, 0x30, VhostRingFile), "VHOST_NET_SET_BACKEND"};

}  // namespace cpr

#endif  // VMM_VIRTIO_VHOST_ABI_H_
