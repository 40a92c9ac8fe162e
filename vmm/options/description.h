#ifndef VMM_OPTIONS_DESCRIPTION_H_
#define VMM_OPTIONS_DESCRIPTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/cpr/v1/machine.pb.h"
#include "vmm/options/chardev_option.h"
#include "vmm/options/memory_backend.h"
#include "vmm/options/options.h"
#include "vmm/vfio/config.h"
#include "vmm/virtio/config.h"

namespace cpr {

// What a new VMM needs to know to build the machine that it takes over. A state carries a complete one, so that
// `cpr-vmm -incoming file:vm.state` needs no further options; a partial one is what a user gave along with -incoming,
// and only that is compared. A plain value.
struct MachineDescription {
  std::optional<IrqchipKind> irqchip;
  std::optional<unsigned> vcpus;
  std::optional<uint64_t> memory_bytes;
  std::optional<MemoryBackend> memory;      // without an -object a memfd with the id kImplicitRamId
  std::optional<bool> implicit_ram_shared;  // partial only: aux-ram-share was given
  // Absolute paths, and the kernel's command line. Complete: empty where the machine has none.
  std::optional<std::string> kernel;
  std::optional<std::string> initrd;
  std::optional<std::string> append;
  std::optional<ChardevOption> serial;  // `none`: the machine has no serial port
  // In slots that they share. Both are given, or neither.
  std::optional<std::vector<VirtioDeviceConfig>> devices;
  std::optional<std::vector<VfioDeviceConfig>> vfio_devices;
  std::optional<std::string> name;
  std::optional<std::string> uuid;

  bool operator==(const MachineDescription&) const = default;
};

// The id of RAM that no -object describes: QEMU's name for that block.
inline constexpr char kImplicitRamId[] = "pc.ram";
inline constexpr uint64_t kDefaultMemoryBytes = 128 << 20;

// What `options` say of the machine: all of it, with defaults for what was not given (DescribeMachine), or only what
// was given (DescribeGiven). Relative paths are taken from the working directory. Thread-safe.
MachineDescription DescribeMachine(const Options& options);
MachineDescription DescribeGiven(const Options& options);

// One text for each thing in which the partial description `given` differs from the complete one `saved`:
// "-smp is 4, the machine has 2". What does not concern the guest may differ: the name, what stands behind the serial
// port and a virtio-serial-pci's ports, devices' and iommufds' ids, the fd of a tap, prealloc. Thread-safe.
std::vector<std::string> DescribeDifferences(const MachineDescription& given, const MachineDescription& saved);

// The description to build the arriving machine by: `saved`, with the name, the chardevs and the devices' ids of
// `given`. iommufds keep the ids that their fds come under.
// kFailedPrecondition: they differ; the message names every difference. Thread-safe.
absl::StatusOr<MachineDescription> JoinDescriptions(const MachineDescription& given, const MachineDescription& saved);

// A complete description as it is written and sent. kDataLoss: a field is missing or out of range. Thread-safe.
v1::MachineDescription MachineDescriptionToProto(const MachineDescription& machine);
absl::StatusOr<MachineDescription> MachineDescriptionFromProto(const v1::MachineDescription& proto);

}  // namespace cpr

#endif  // VMM_OPTIONS_DESCRIPTION_H_
