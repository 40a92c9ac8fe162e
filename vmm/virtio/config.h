#ifndef VMM_VIRTIO_CONFIG_H_
#define VMM_VIRTIO_CONFIG_H_

#include <cstddef>
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

// What -device asks for.
struct VirtioDeviceConfig {
  enum class Kind { kUnspecified, kBlk, kSerial, kRng };
  Kind kind = Kind::kUnspecified;
  unsigned slot = 0;                    // PCI's, 1 to 31; 0: the lowest free one
  std::string id;                       // may be empty
  std::string path;                     // kBlk: the image
  bool read_only = false;               // kBlk
  bool probe = false;                   // kBlk: nobody has said that the image is raw
  std::string serial;                   // kBlk: the disk's ID
  std::vector<VirtioPortConfig> ports;  // kSerial

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
