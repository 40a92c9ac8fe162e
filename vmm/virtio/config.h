#ifndef VMM_VIRTIO_CONFIG_H_
#define VMM_VIRTIO_CONFIG_H_

#include <string>
#include <vector>

#include "vmm/chardev/config.h"

namespace cpr {

// A port of a virtio-serial device, with what is at its other end.
struct VirtioPortConfig {
  std::string name;
  ChardevConfig chardev;

  friend bool operator==(const VirtioPortConfig&, const VirtioPortConfig&) = default;
};

// What -device asks for. The order of a machine's devices is that of their slots.
struct VirtioDeviceConfig {
  enum class Kind { kUnspecified, kBlk, kSerial, kRng };
  Kind kind = Kind::kUnspecified;
  std::string id;                       // may be empty
  std::string path;                     // kBlk: the image
  bool read_only = false;               // kBlk
  std::string serial;                   // kBlk: the disk's ID
  std::vector<VirtioPortConfig> ports;  // kSerial

  friend bool operator==(const VirtioDeviceConfig&, const VirtioDeviceConfig&) = default;
};

}  // namespace cpr

#endif  // VMM_VIRTIO_CONFIG_H_
