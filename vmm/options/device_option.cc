#include "vmm/options/device_option.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/json/arg_reader.h"
#include "vmm/options/key_values.h"

namespace cpr {
namespace {

using Kind = VirtioDeviceConfig::Kind;

constexpr char kPort[] = "virtserialport";

absl::Status Invalid(const std::string& text) { return absl::InvalidArgumentError(text); }

// QEMU's names and their short forms.
Kind KindOfDriver(absl::string_view driver) {
  for (const Kind kind : {Kind::kBlk, Kind::kSerial, Kind::kRng, Kind::kNet}) {
    const absl::string_view name = VirtioDriverName(kind);
    if (driver == name || driver == absl::StripSuffix(name, "-pci")) return kind;
  }
  return Kind::kUnspecified;
}

// QEMU's "SLOT[.FUNCTION]", both hexadecimal; there is function 0 alone.
std::optional<unsigned> ParseSlot(absl::string_view text) {
  absl::ConsumeSuffix(&text, ".0");
  uint32_t slot;
  if (!absl::SimpleHexAtoi(text, &slot) || slot == 0 || slot >= kVirtioSlots) return std::nullopt;
  return slot;
}

void ReadSlot(ArgReader* args, DeviceOption* device) {
  const auto address = args->String("addr");
  if (!address.has_value()) return;
  device->slot = ParseSlot(*address);
  if (device->slot.has_value()) return;
  args->Fail(Invalid(absl::StrCat("Property '", device->driver, ".addr' doesn't take value '", *address, "'")));
}

void ReadNet(ArgReader* args, DeviceOption* device) {
  device->netdev = args->RequiredString("netdev");
  const auto mac = args->String("mac");
  if (!mac.has_value()) return;
  device->mac = ParseMac(*mac);
  if (device->mac.has_value()) return;
  args->Fail(Invalid(absl::StrCat("Property '", device->driver, ".mac' doesn't take value '", *mac, "'")));
}

void ReadPort(ArgReader* args, DeviceOption* device) {
  device->chardev = args->RequiredString("chardev");
  device->name = args->String("name").value_or("");
  device->bus = args->String("bus");
  if (device->name.size() > kMaxVirtioPortNameBytes) {
    args->Fail(Invalid(absl::StrCat("Parameter 'name' expects at most ", kMaxVirtioPortNameBytes, " bytes")));
  }
}

void ReadHostAddress(ArgReader* args, const std::string& name,
                     std::optional<std::string> (*address_of)(absl::string_view text), DeviceOption* device) {
  const auto text = args->String(name);
  if (!text.has_value()) return;
  const std::string address = address_of(*text).value_or("");
  if (address.empty() || (!device->host.empty() && address != device->host)) {
    args->Fail(Invalid(absl::StrCat("Property '", device->driver, ".", name, "' doesn't take value '", *text, "'")));
  }
  device->host = address;
}

void ReadVfio(ArgReader* args, DeviceOption* device) {
  device->iommufd = args->String("iommufd");
  ReadHostAddress(args, "host", CanonicalHostAddress, device);
  ReadHostAddress(args, "sysfsdev", HostAddressOfFolder, device);
}

class Resolver {
 public:
  Resolver(const Backends& backends, std::set<std::string>* used_chardevs)
      : backends_(backends), used_chardevs_(used_chardevs) {}

  absl::Status Add(const DeviceOption& device) {
    if (!device.id.empty() && !ids_.insert(device.id).second) {
      return Invalid(absl::StrCat("Duplicate device ID '", device.id, "'"));
    }
    if (device.driver == kPort) return AddPort(device);
    if (device.driver == kVfioDriverName) return AddVfio(device);
    const Kind kind = KindOfDriver(device.driver);
    VirtioDeviceConfig config{.kind = kind, .id = device.id, .serial = device.serial};
    if (kind == Kind::kBlk) CPR_RETURN_IF_ERROR(FindImage(device.drive, &config));
    if (kind == Kind::kNet) CPR_RETURN_IF_ERROR(FindNetdev(device, &config.net));
    return Place(std::move(config), device.slot);
  }

  absl::StatusOr<ResolvedDevices> Finish() {
    for (const DriveOption& drive : backends_.drives) {
      if (used_drives_.count(drive.id) == 0) return Invalid(absl::StrCat("drive '", drive.id, "': nothing uses it"));
    }
    for (const NetdevOption& netdev : backends_.netdevs) {
      if (used_netdevs_.count(netdev.id) == 0) return Invalid(absl::StrCat("netdev ", netdev.id, " has no peer"));
    }
    for (const std::string& id : backends_.iommufds) {
      if (used_iommufds_.count(id) == 0) return Invalid(absl::StrCat("-object ", id, ": nothing uses it"));
    }
    return ResolvedDevices{.virtio = std::move(devices_), .vfio = std::move(vfio_devices_)};
  }

 private:
  const DriveOption* FindDrive(const std::string& id) const {
    const auto drives = backends_.drives;
    const auto* found = std::find_if(drives.begin(), drives.end(), [&](const auto& d) { return d.id == id; });
    return found == drives.end() ? nullptr : found;
  }

  // Follows the nodes down to the file.
  absl::Status FindImage(const std::string& id, VirtioDeviceConfig* config) {
    const DriveOption* drive = FindDrive(id);
    if (drive == nullptr) {
      return Invalid(absl::StrCat("Property 'virtio-blk-device.drive' can't find value '", id, "'"));
    }
    while (true) {
      if (!used_drives_.insert(drive->id).second) {
        return Invalid(absl::StrCat("Drive '", drive->id, "' is already in use by another device"));
      }
      config->read_only = config->read_only || drive->read_only;
      config->probe = config->probe || drive->probe;
      config->path = drive->path;
      if (drive->node.empty()) return absl::OkStatus();
      const std::string node = drive->node;
      drive = FindDrive(node);
      if (drive == nullptr) return Invalid(absl::StrCat("Cannot find device='' nor node-name='", node, "'"));
    }
  }

  absl::Status FindNetdev(const DeviceOption& device, VirtioNetConfig* config) {
    const auto netdevs = backends_.netdevs;
    const auto property = [&](absl::string_view what) {
      return Invalid(absl::StrCat("Property 'virtio-net-device.netdev' can't ", what));
    };
    const auto* found =
        std::find_if(netdevs.begin(), netdevs.end(), [&](const auto& n) { return n.id == device.netdev; });
    if (found == netdevs.end()) return property(absl::StrCat("find value '", device.netdev, "'"));
    if (!used_netdevs_.insert(found->id).second) {
      return property(absl::StrCat("take value '", device.netdev, "', it's in use"));
    }
    MacAddress mac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    mac.back() = static_cast<uint8_t>(mac.back() + used_netdevs_.size() - 1);
    *config = {.netdev_id = found->id,
               .interface = found->interface,
               .fd = found->fd,
               .vhost = found->vhost,
               .vhost_fd = found->vhost_fd,
               .mac = device.mac.value_or(mac)};
    return absl::OkStatus();
  }

  // Takes the slot that was asked for, or the lowest free one. `name` is the driver's.
  absl::StatusOr<unsigned> TakeSlot(std::optional<unsigned> wanted, const char* name) {
    unsigned slot = wanted.value_or(1);
    while (!wanted.has_value() && slots_.count(slot) != 0) ++slot;
    if (slot >= kVirtioSlots) {
      return Invalid(absl::StrCat("PCI: no slot/function available for ", name, ", all in use or reserved"));
    }
    const auto [taken, is_new] = slots_.try_emplace(slot, name);
    if (is_new) return slot;
    return Invalid(
        absl::StrFormat("PCI: slot %d function 0 not available for %s, in use by %s", slot, name, taken->second));
  }

  absl::Status Place(VirtioDeviceConfig config, std::optional<unsigned> slot) {
    CPR_ASSIGN_OR_RETURN(config.slot, TakeSlot(slot, VirtioDriverName(config.kind)));
    devices_.push_back(std::move(config));
    return absl::OkStatus();
  }

  absl::Status FindIommufd(const std::string& id) {
    const auto ids = backends_.iommufds;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) {
      return Invalid(absl::StrCat("Property 'vfio-pci.iommufd' can't find value '", id, "'"));
    }
    used_iommufds_.insert(id);
    return absl::OkStatus();
  }

  absl::Status AddVfio(const DeviceOption& device) {
    if (device.iommufd.has_value()) CPR_RETURN_IF_ERROR(FindIommufd(*device.iommufd));
    if (device.host.empty())
      return Invalid(
          "No provided host device. Use -device vfio-pci,host=DDDD:BB:DD.F or -device "
          "vfio-pci,sysfsdev=PATH_TO_DEVICE");
    if (!used_hosts_.insert(device.host).second) {
      return Invalid(absl::StrCat("vfio ", device.host, ": device is already attached"));
    }
    CPR_ASSIGN_OR_RETURN(const unsigned slot, TakeSlot(device.slot, kVfioDriverName));
    vfio_devices_.push_back(
        {.slot = slot, .id = device.id, .host = device.host, .iommufd = device.iommufd.value_or("")});
    return absl::OkStatus();
  }

  absl::Status AddPort(const DeviceOption& device) {
    const auto chardevs = backends_.chardevs;
    const auto* chardev =
        std::find_if(chardevs.begin(), chardevs.end(), [&](const auto& c) { return c.id == device.chardev; });
    if (chardev == chardevs.end()) {
      return Invalid(absl::StrCat("Property 'virtserialport.chardev' can't find value '", device.chardev, "'"));
    }
    if (!used_chardevs_->insert(device.chardev).second) {
      return Invalid(
          absl::StrCat("Property 'virtserialport.chardev' can't take value '", device.chardev, "', it's in use"));
    }
    CPR_ASSIGN_OR_RETURN(VirtioDeviceConfig * bus, BusOf(device));
    for (const VirtioPortConfig& port : bus->ports) {
      if (port.name.empty() || port.name != device.name) continue;
      return Invalid(absl::StrCat("virtio-serial-bus: A port already exists by name ", device.name));
    }
    if (bus->ports.size() == kMaxVirtioPorts) {
      return Invalid("virtio-serial-bus: Maximum port limit for this device reached");
    }
    bus->ports.push_back({.name = device.name, .chardev_id = device.chardev, .chardev = chardev->config});
    return absl::OkStatus();
  }

  absl::StatusOr<VirtioDeviceConfig*> BusOf(const DeviceOption& device) {
    const std::string bus = device.bus.value_or("");
    const absl::string_view wanted = absl::StripSuffix(bus, ".0");
    const auto found = std::find_if(devices_.rbegin(), devices_.rend(), [&](const VirtioDeviceConfig& config) {
      return config.kind == Kind::kSerial && (!device.bus.has_value() || config.id == wanted);
    });
    if (found != devices_.rend()) return &*found;
    if (device.bus.has_value()) return Invalid(absl::StrCat("Bus '", *device.bus, "' not found"));
    CPR_RETURN_IF_ERROR(Place({.kind = Kind::kSerial}, std::nullopt));
    return &devices_.back();
  }

  const Backends& backends_;
  std::set<std::string>* const used_chardevs_;
  std::vector<VirtioDeviceConfig> devices_;
  std::vector<VfioDeviceConfig> vfio_devices_;
  std::map<unsigned, const char*> slots_;  // and who is there
  std::set<std::string> ids_, used_drives_, used_netdevs_, used_iommufds_, used_hosts_;
};

}  // namespace

absl::StatusOr<DriveOption> ParseDrive(absl::string_view argument) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(argument, "file"));
  ArgReader args(object, ArgSource::kKeyValues);
  DriveOption drive{.text = absl::StrCat("-drive ", argument)};
  drive.own_device = args.RequiredOneOf("if", {"none", "virtio"}) == "virtio";
  drive.id = drive.own_device ? args.String("id").value_or("") : args.RequiredString("id");
  drive.path = args.RequiredString("file");
  drive.probe = !args.OneOf("format", {"raw"}).has_value();
  drive.read_only = args.Bool("readonly").value_or(false);
  CPR_RETURN_IF_ERROR(args.Finish());
  return drive;
}

absl::StatusOr<DriveOption> ParseBlockdev(absl::string_view argument) {
  bool is_json = false;
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValuesOrJson(argument, "driver", &is_json));
  ArgReader args(object, is_json ? ArgSource::kJson : ArgSource::kKeyValues);
  DriveOption drive{.text = absl::StrCat("-blockdev ", argument)};
  const std::string driver = args.RequiredOneOf("driver", {"file", "host_device", "raw"});
  drive.id = args.RequiredString("node-name");
  (driver == "raw" ? drive.node : drive.path) = args.RequiredString(driver == "raw" ? "file" : "filename");
  drive.read_only = args.Bool("read-only").value_or(false);
  CPR_RETURN_IF_ERROR(args.Finish());
  return drive;
}

absl::StatusOr<DeviceOption> ParseDevice(absl::string_view argument) {
  bool is_json = false;
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValuesOrJson(argument, "driver", &is_json));
  ArgReader args(object, is_json ? ArgSource::kJson : ArgSource::kKeyValues);
  DeviceOption device{.text = absl::StrCat("-device ", argument)};
  device.driver = args.RequiredString("driver");
  device.id = args.String("id").value_or("");
  if (device.driver == kPort) {
    ReadPort(&args, &device);
  } else if (device.driver == kVfioDriverName) {
    ReadSlot(&args, &device);
    ReadVfio(&args, &device);
  } else if (KindOfDriver(device.driver) == Kind::kUnspecified) {
    args.Fail(Invalid(absl::StrCat("'", device.driver, "' is not a valid device model name")));
  } else {
    ReadSlot(&args, &device);
  }
  if (KindOfDriver(device.driver) == Kind::kBlk) {
    device.drive = args.String("drive").value_or("");
    if (device.drive.empty()) args.Fail(Invalid("drive property not set"));
    device.serial = args.String("serial").value_or("");
  }
  if (KindOfDriver(device.driver) == Kind::kNet) ReadNet(&args, &device);
  CPR_RETURN_IF_ERROR(args.FinishProperties(device.driver));
  return device;
}

DeviceOption DeviceOfDrive(const DriveOption& drive) {
  return {.text = drive.text, .driver = VirtioDriverName(Kind::kBlk), .drive = drive.id};
}

absl::StatusOr<ResolvedDevices> ResolveDevices(absl::Span<const DeviceOption> devices, const Backends& backends,
                                               std::set<std::string>* used) {
  Resolver resolver(backends, used);
  for (const DeviceOption& device : devices) {
    CPR_RETURN_IF_ERROR(Annotate(resolver.Add(device), device.text));
  }
  return resolver.Finish();
}

}  // namespace cpr
