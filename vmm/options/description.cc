#include "vmm/options/description.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace cpr {
namespace {

// The new VMM may run in another folder.
std::optional<std::string> Absolute(const std::optional<std::string>& path) {
  if (!path.has_value() || path->empty()) return path;
  std::error_code error;  // no working directory: the path stays as it is
  const auto absolute = std::filesystem::absolute(*path, error);
  return error ? *path : absolute.lexically_normal().string();
}

std::vector<VirtioDeviceConfig> AbsoluteDevices(std::vector<VirtioDeviceConfig> devices) {
  for (VirtioDeviceConfig& device : devices) {
    device.path = *Absolute(device.path);
    for (VirtioPortConfig& port : device.ports) port.chardev.path = *Absolute(port.chardev.path);
  }
  return devices;
}

absl::string_view IrqchipName(IrqchipKind kind) { return kind == IrqchipKind::kKernel ? "on" : "split"; }
absl::string_view OnOff(bool on) { return on ? "on" : "off"; }
std::string Quoted(const std::string& text) { return absl::StrCat("'", text, "'"); }

// Collects differences between what was given and what is saved.
class Differences {
 public:
  // `show` makes a text or a number of a value.
  template <typename T, typename Show>
  void Compare(absl::string_view option, const std::optional<T>& given, const std::optional<T>& saved, Show show) {
    if (!given.has_value() || given == saved) return;
    texts_.push_back(absl::StrCat(option, " is ", show(*given), ", the machine has ",
                                  saved.has_value() ? absl::StrCat(show(*saved)) : std::string("none")));
  }
  template <typename T, typename Show>
  void CompareValue(absl::string_view option, const T& given, const T& saved, Show show) {
    Compare(option, std::make_optional(given), std::make_optional(saved), show);
  }
  std::vector<std::string> Take() { return std::move(texts_); }

 private:
  std::vector<std::string> texts_;
};

void CompareMemory(const MemoryBackend& given, const MemoryBackend& saved, Differences* differences) {
  const auto number = [](uint64_t n) { return n; };
  const auto property = [&](absl::string_view name) { return absl::StrCat("-object ", given.id, ": ", name); };
  differences->CompareValue("-object id", given.id, saved.id, Quoted);
  differences->CompareValue(property("type"), given.kind, saved.kind, MemoryBackendKindName);
  differences->CompareValue(property("share"), given.share, saved.share, OnOff);
  differences->CompareValue(property("mem-path"), given.mem_path, saved.mem_path, Quoted);
  differences->CompareValue(property("align"), given.align_bytes, saved.align_bytes, number);
  differences->CompareValue(property("hugetlb"), given.hugetlb, saved.hugetlb, OnOff);
  differences->CompareValue(property("hugetlbsize"), given.hugetlb_size_bytes, saved.hugetlb_size_bytes, number);
}

template <typename Config>
const Config* DeviceIn(unsigned slot, const std::vector<Config>& devices) {
  const auto found = std::find_if(devices.begin(), devices.end(), [slot](const auto& d) { return d.slot == slot; });
  return found == devices.end() ? nullptr : &*found;
}

void CompareDevice(const VirtioDeviceConfig& given, const VirtioDeviceConfig& saved, absl::string_view place,
                   Differences* differences) {
  const auto property = [&](absl::string_view name) { return absl::StrCat(place, ": ", name); };
  const auto ports = [](const VirtioDeviceConfig& device) {
    return absl::StrJoin(device.ports, ",", [](std::string* out, const auto& port) { out->append(port.name); });
  };
  differences->CompareValue(property("file"), given.path, saved.path, Quoted);
  differences->CompareValue(property("readonly"), given.read_only, saved.read_only, OnOff);
  differences->CompareValue(property("serial"), given.serial, saved.serial, Quoted);
  differences->CompareValue(property("ports"), ports(given), ports(saved), Quoted);
  // Only an interface that was named can be another one.
  const std::string& interface = given.net.interface.empty() ? saved.net.interface : given.net.interface;
  differences->CompareValue(property("ifname"), interface, saved.net.interface, Quoted);
  differences->CompareValue(property("vhost"), given.net.vhost, saved.net.vhost, OnOff);
  differences->CompareValue(property("mac"), given.net.mac, saved.net.mac, MacText);
}

void CompareDevice(const VfioDeviceConfig& given, const VfioDeviceConfig& saved, absl::string_view place,
                   Differences* differences) {
  const auto backend = [](bool container) { return container ? "container" : "iommufd"; };
  differences->CompareValue(absl::StrCat(place, ": host"), given.host, saved.host, Quoted);
  differences->CompareValue(absl::StrCat(place, ": backend"), given.iommufd.empty(), saved.iommufd.empty(), backend);
}

// What is in one of a machine's slots: at most one of the two.
struct SlotContent {
  const VirtioDeviceConfig* virtio = nullptr;
  const VfioDeviceConfig* vfio = nullptr;

  std::string Driver() const {
    if (vfio != nullptr) return kVfioDriverName;
    return virtio == nullptr ? "none" : VirtioDriverName(virtio->kind);
  }
};

SlotContent ContentOf(unsigned slot, const MachineDescription& machine) {
  return {.virtio = machine.devices.has_value() ? DeviceIn(slot, *machine.devices) : nullptr,
          .vfio = machine.vfio_devices.has_value() ? DeviceIn(slot, *machine.vfio_devices) : nullptr};
}

void CompareDevices(const MachineDescription& given, const MachineDescription& saved, Differences* differences) {
  for (unsigned slot = 0; slot < kVirtioSlots; ++slot) {
    const SlotContent ours = ContentOf(slot, given);
    const SlotContent theirs = ContentOf(slot, saved);
    const std::string place = absl::StrCat("-device in PCI slot ", slot);
    differences->CompareValue(place, ours.Driver(), theirs.Driver(), [](const std::string& name) { return name; });
    if (ours.Driver() != theirs.Driver()) continue;
    if (ours.virtio != nullptr) CompareDevice(*ours.virtio, *theirs.virtio, place, differences);
    if (ours.vfio != nullptr) CompareDevice(*ours.vfio, *theirs.vfio, place, differences);
  }
}

// `saved` has the same devices. Their order is that of the saved state's sections.
std::vector<VirtioDeviceConfig> WithChardevsOf(const std::vector<VirtioDeviceConfig>& given,
                                               std::vector<VirtioDeviceConfig> saved) {
  for (VirtioDeviceConfig& device : saved) {
    device.ports = DeviceIn(device.slot, given)->ports;
    device.id = DeviceIn(device.slot, given)->id;
    device.net.netdev_id = DeviceIn(device.slot, given)->net.netdev_id;
    device.net.fd = DeviceIn(device.slot, given)->net.fd;
    device.net.vhost_fd = DeviceIn(device.slot, given)->net.vhost_fd;
  }
  return saved;
}

// `saved` has the same devices.
std::vector<VfioDeviceConfig> WithIdsOf(const std::vector<VfioDeviceConfig>& given,
                                        std::vector<VfioDeviceConfig> saved) {
  for (VfioDeviceConfig& device : saved) device.id = DeviceIn(device.slot, given)->id;
  return saved;
}

}  // namespace

MachineDescription DescribeGiven(const Options& options) {
  MachineDescription machine;
  machine.irqchip = options.irqchip;
  machine.vcpus = options.vcpus;
  machine.memory_bytes = options.memory_bytes;
  machine.memory = options.memory_backend;
  if (machine.memory.has_value()) machine.memory->mem_path = *Absolute(machine.memory->mem_path);
  machine.implicit_ram_shared = options.aux_ram_share;
  machine.kernel = Absolute(options.kernel);
  machine.initrd = Absolute(options.initrd);
  machine.append = options.append;
  machine.serial = options.serial;
  if (machine.serial.has_value()) machine.serial->config.path = *Absolute(machine.serial->config.path);
  if (!options.devices.empty() || !options.vfio_devices.empty()) {
    machine.devices = AbsoluteDevices(options.devices);
    machine.vfio_devices = options.vfio_devices;
  }
  machine.name = options.name;
  machine.uuid = options.uuid;
  return machine;
}

MachineDescription DescribeMachine(const Options& options) {
  MachineDescription machine = DescribeGiven(options);
  if (!machine.irqchip.has_value()) machine.irqchip = IrqchipKind::kSplit;
  if (!machine.vcpus.has_value()) machine.vcpus = 1;
  if (!machine.memory_bytes.has_value()) machine.memory_bytes = kDefaultMemoryBytes;
  if (!machine.memory.has_value()) {
    machine.memory = MemoryBackend{.kind = MemoryBackendKind::kMemfd,
                                   .id = kImplicitRamId,
                                   .size_bytes = *machine.memory_bytes,
                                   .share = options.aux_ram_share.value_or(true)};
  }
  machine.implicit_ram_shared.reset();
  if (!machine.devices.has_value()) {
    machine.devices.emplace();
    machine.vfio_devices.emplace();
  }
  for (auto* text : {&machine.kernel, &machine.initrd, &machine.append, &machine.name, &machine.uuid}) {
    if (!text->has_value()) *text = "";
  }
  if (!machine.serial.has_value()) {
    // Without -nodefaults there is a port that nobody listens to.
    machine.serial = options.nodefaults ? ChardevOption{.none = true}
                                        : ChardevOption{.config = {.kind = ChardevConfig::Kind::kNull}};
  }
  return machine;
}

std::vector<std::string> DescribeDifferences(const MachineDescription& given, const MachineDescription& saved) {
  Differences differences;
  const auto bytes = [](uint64_t n) { return absl::StrCat(n, " bytes"); };
  differences.Compare("-machine kernel-irqchip", given.irqchip, saved.irqchip, IrqchipName);
  differences.Compare("-smp", given.vcpus, saved.vcpus, [](unsigned n) { return n; });
  differences.Compare("-m", given.memory_bytes, saved.memory_bytes, bytes);
  if (given.memory.has_value()) CompareMemory(*given.memory, *saved.memory, &differences);
  if (saved.memory->id == kImplicitRamId && !given.memory.has_value()) {
    differences.Compare("-machine aux-ram-share", given.implicit_ram_shared, std::make_optional(saved.memory->share),
                        OnOff);
  }
  differences.Compare("-kernel", given.kernel, saved.kernel, Quoted);
  differences.Compare("-initrd", given.initrd, saved.initrd, Quoted);
  differences.Compare("-append", given.append, saved.append, Quoted);
  differences.Compare("-uuid", given.uuid, saved.uuid, Quoted);
  if (given.serial.has_value() && given.serial->none != saved.serial->none) {
    differences.CompareValue("-serial", given.serial->none, saved.serial->none,
                             [](bool none) { return none ? "none" : "a port"; });
  }
  if (given.devices.has_value() || given.vfio_devices.has_value()) CompareDevices(given, saved, &differences);
  return differences.Take();
}

absl::StatusOr<MachineDescription> JoinDescriptions(const MachineDescription& given, const MachineDescription& saved) {
  if (const auto differences = DescribeDifferences(given, saved); !differences.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the command line differs from the machine that arrives: ", absl::StrJoin(differences, "; ")));
  }
  MachineDescription machine = saved;
  if (given.name.has_value()) machine.name = given.name;
  if (given.serial.has_value()) machine.serial = given.serial;
  if (given.devices.has_value()) machine.devices = WithChardevsOf(*given.devices, *saved.devices);
  if (given.vfio_devices.has_value()) machine.vfio_devices = WithIdsOf(*given.vfio_devices, *saved.vfio_devices);
  return machine;
}

}  // namespace cpr
