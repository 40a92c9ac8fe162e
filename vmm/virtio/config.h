#ifndef VMM_VIRTIO_CONFIG_H_
#define VMM_VIRTIO_CONFIG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "vmm/chardev/config.h"

namespace cpr {

// A port of a virtio-serial device, with what is at its other end.
struct VirtioPortConfig {
  std::string name;        // may be empty
  std::string chardev_id;  // the -chardev's
  ChardevConfig chardev;

  friend bool operator==(const VirtioPortConfig&, const VirtioPortConfig&) = default;
};

using MacAddress = std::array<uint8_t, 6>;

// A network device, with the tap at its other end.
struct VirtioNetConfig {
  std::string netdev_id;  // the -netdev's
  std::string interface;  // the tap's; empty: `fd` knows, or the kernel finds a name
  int fd = -1;            // of a tap, in this process; -1: to be opened by name
  bool vhost = false;     // frames are the kernel's business
  int vhost_fd = -1;      // of /dev/vhost-net, in this process; -1: to be opened
  MacAddress mac = {};

  friend bool operator==(const VirtioNetConfig&, const VirtioNetConfig&) = default;
};

// "52:54:00:12:34:56".
std::string MacText(const MacAddress& mac);

// What -device asks for.
struct VirtioDeviceConfig {
  enum class Kind { kUnspecified, kBlk, kSerial, kRng, kNet };
  Kind kind = Kind::kUnspecified;
  unsigned slot = 0;                    // PCI's, 1 to 31; 0: the lowest free one
  std::string id;                       // may be empty
  std::string path;                     // kBlk: the image
  bool read_only = false;               // kBlk
  bool probe = false;                   // kBlk: nobody has said that the image is raw
  std::string serial;                   // kBlk: the disk's ID
  std::vector<VirtioPortConfig> ports;  // kSerial
  VirtioNetConfig net;                  // kNet

  friend bool operator==(const VirtioDeviceConfig&, const VirtioDeviceConfig&) = default;
};

// As -device names it: "virtio-blk-pci".
constexpr const char* VirtioDriverName(VirtioDeviceConfig::Kind kind) {
  switch (kind) {
    case VirtioDeviceConfig::Kind::kBlk:
      return "virtio-blk-pci";
    case VirtioDeviceConfig::Kind::kSerial:
      return "virtio-serial-pci";
    case VirtioDeviceConfig::Kind::kRng:
      return "virtio-rng-pci";
    case VirtioDeviceConfig::Kind::kNet:
      return "virtio-net-pci";
    default:
      return "unknown device";
  }
}

// A machine's PCI slots, the host bridge's slot 0 included.
inline constexpr unsigned kVirtioSlots = 32;
// Of one virtio-serial-pci.
inline constexpr size_t kMaxVirtioPorts = 30;
inline constexpr size_t kMaxVirtioPortNameBytes = 128;

}  // namespace cpr

#endif  // VMM_VIRTIO_CONFIG_H_
