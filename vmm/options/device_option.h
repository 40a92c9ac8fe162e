#ifndef VMM_OPTIONS_DEVICE_OPTION_H_
#define VMM_OPTIONS_DEVICE_OPTION_H_

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/options/chardev_option.h"
#include "vmm/options/netdev_option.h"
#include "vmm/vfio/config.h"
#include "vmm/virtio/config.h"

namespace cpr {

// What -drive or -blockdev describes. A raw node over a file node is joined with it by ResolveDevices.
struct DriveOption {
  std::string text;  // the option with its argument, for messages
  std::string id;    // empty: a drive with a device of its own may have none
  std::string path;  // or
  std::string node;  // the node that is below
  bool read_only = false;
  bool probe = false;       // nobody has said that it is a raw image
  bool own_device = false;  // -drive if=virtio: a virtio-blk-pci comes with it
};

// What -device asks for, before names are resolved.
struct DeviceOption {
  std::string text;  // the option with its argument, for messages
  std::string driver;
  std::string id;
  std::optional<unsigned> slot;        // PCI devices: addr
  std::string drive, serial;           // virtio-blk-pci
  std::string netdev;                  // virtio-net-pci
  std::optional<MacAddress> mac;       // virtio-net-pci
  std::string chardev, name;           // virtserialport
  std::optional<std::string> bus;      // virtserialport: the id of a virtio-serial-pci, perhaps with ".0"
  std::string host;                    // vfio-pci: canonical; empty: not given
  std::optional<std::string> iommufd;  // vfio-pci
};

// Parse the arguments of the options. kInvalidArgument with QEMU's text where it has one. Thread-safe.
// Any drive whose format is not said is taken for a raw one here, and looked at when it is opened.
absl::StatusOr<DriveOption> ParseDrive(absl::string_view argument);
absl::StatusOr<DriveOption> ParseBlockdev(absl::string_view argument);
absl::StatusOr<DeviceOption> ParseDevice(absl::string_view argument);
// The device that a drive brings along.
DeviceOption DeviceOfDrive(const DriveOption& drive);

// What devices name.
struct Backends {
  absl::Span<const DriveOption> drives;
  absl::Span<const NetdevOption> netdevs;
  absl::Span<const ChardevOption> chardevs;
  absl::Span<const std::string> iommufds;  // ids
};

// A machine's devices, each kind in the order of the command line. They share the slots.
struct ResolvedDevices {
  std::vector<VirtioDeviceConfig> virtio;
  std::vector<VfioDeviceConfig> vfio;
};

// The machine's devices: each with its drive, netdev or iommufd and in its slot, the lowest free one unless it asks for
// another; each port with its chardev and at its bus, the last virtio-serial-pci before it or one of its own; network
// devices without an address with QEMU's, 52:54:00:12:34:56 and on. `used` has the ids of the chardevs that are taken,
// and gets those taken here. kInvalidArgument begins with the option. Thread-safe.
absl::StatusOr<ResolvedDevices> ResolveDevices(absl::Span<const DeviceOption> devices, const Backends& backends,
                                               std::set<std::string>* used);

}  // namespace cpr

#endif  // VMM_OPTIONS_DEVICE_OPTION_H_
