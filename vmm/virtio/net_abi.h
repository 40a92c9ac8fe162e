#ifndef VMM_VIRTIO_NET_ABI_H_
#define VMM_VIRTIO_NET_ABI_H_

#include <cstdint>

// What network device and driver say to each other, little-endian: <linux/virtio_net.h>, which is not C++.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.1.

namespace cpr {

// Features.
inline constexpr unsigned kNetChecksum = 0, kNetGuestChecksum = 1, kNetMac = 5, kNetGuestTso4 = 7, kNetGuestTso6 = 8,
                          kNetGuestEcn = 9, kNetHostTso4 = 11, kNetHostTso6 = 12, kNetHostEcn = 13, kNetMergeable = 15,
                          kNetStatus = 16;

// Before each frame.
struct NetHeader {
  uint8_t flags;
  uint8_t segmentation;
  uint16_t header_bytes;
  uint16_t segment_bytes;
  uint16_t checksum_start;
  uint16_t checksum_offset;
  uint16_t buffers;  // that the frame was received into
};
static_assert(sizeof(NetHeader) == 12);

// The device's configuration, as far as its features reach.
struct NetConfig {
  uint8_t mac[6];
  uint16_t status;
};
static_assert(sizeof(NetConfig) == 8);
inline constexpr uint16_t kNetLinkUp = 1;  // of the status

}  // namespace cpr

#endif  // VMM_VIRTIO_NET_ABI_H_
