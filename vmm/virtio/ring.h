#ifndef VMM_VIRTIO_RING_H_
#define VMM_VIRTIO_RING_H_

#include <cstdint>

// The split virtqueue as it lies in the guest's RAM, little-endian: <linux/virtio_ring.h>, which is not C++.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 2.7.

namespace cpr {

struct RingDescriptor {
  uint64_t gpa;
  uint32_t size_bytes;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(RingDescriptor) == 16);

struct RingUsedElement {
  uint32_t head;
  uint32_t written_bytes;
};
static_assert(sizeof(RingUsedElement) == 8);

inline constexpr uint16_t kRingNext = 1, kRingWrite = 2, kRingIndirect = 4;  // a descriptor's flags
inline constexpr uint16_t kRingNoNotify = 1, kRingNoInterrupt = 1;           // the used ring's, the available ring's
// Both rings: flags, index, then the entries, then the other side's event index.
inline constexpr uint64_t kRingFlagsAt = 0, kRingIndexAt = 2, kRingEntriesAt = 4;
inline constexpr uint64_t kRingDescriptorsAlign = 16, kRingAvailableAlign = 2, kRingUsedAlign = 4;

inline constexpr unsigned kRingFeatureIndirect = 28, kRingFeatureEventIndex = 29;

}  // namespace cpr

#endif  // VMM_VIRTIO_RING_H_
