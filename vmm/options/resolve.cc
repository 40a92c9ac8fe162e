#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/options/raw_options.h"

namespace cpr {
namespace {

absl::Status ResolveMemory(RawOptions* raw) {
  if (raw->objects.empty() && !raw->memory_backend_id.has_value()) return absl::OkStatus();
  // QEMU's own examples of CPR name no memory-backend where there is one -object only.
  const bool implied = !raw->memory_backend_id.has_value() && raw->objects.size() == 1;
  const std::string id = implied ? raw->objects[0].id : raw->memory_backend_id.value_or("");
  for (const MemoryBackend& object : raw->objects) {
    if (object.id == id) {
      raw->options.memory_backend = object;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "-object ", object.id, ": nothing uses it; say -machine memory-backend=", object.id, " or leave it out"));
    }
  }
  if (!raw->options.memory_backend.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("-machine memory-backend=", id, ": no -object has this id"));
  }
  const auto& memory_bytes = raw->options.memory_bytes;
  if (memory_bytes.has_value() && *memory_bytes != raw->options.memory_backend->size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("Machine memory size does not match the size of the memory backend (-m says ", *memory_bytes,
                     " bytes, -object ", id, " ", raw->options.memory_backend->size_bytes, ")"));
  }
  raw->options.memory_bytes = raw->options.memory_backend->size_bytes;
  return absl::OkStatus();
}

absl::Status ResolveSerial(RawOptions* raw) {
  for (const ChardevOption& chardev : raw->chardevs) {
    if (chardev.id != raw->serial_chardev_id) continue;
    raw->options.serial = chardev;
    raw->used_chardevs.insert(chardev.id);
  }
  if (raw->serial_chardev_id.has_value() && !raw->options.serial.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("-serial chardev:", *raw->serial_chardev_id, ": chardev \"",
                                                   *raw->serial_chardev_id, "\" not found"));
  }
  return absl::OkStatus();
}

absl::Status ResolvePciDevices(RawOptions* raw) {
  // As in QEMU, a drive's own device comes behind those of -device.
  for (const DriveOption& drive : raw->drives) {
    if (drive.own_device) raw->devices.push_back(DeviceOfDrive(drive));
  }
  const Backends backends = {
      .drives = raw->drives, .netdevs = raw->netdevs, .chardevs = raw->chardevs, .iommufds = raw->iommufds};
  CPR_ASSIGN_OR_RETURN(ResolvedDevices devices, ResolveDevices(raw->devices, backends, &raw->used_chardevs));
  raw->options.devices = std::move(devices.virtio);
  raw->options.vfio_devices = std::move(devices.vfio);
  for (const ChardevOption& chardev : raw->chardevs) {
    if (raw->used_chardevs.count(chardev.id) != 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("-chardev ", chardev.id, ": nothing uses it"));
  }
  return absl::OkStatus();
}

// Without -nodefaults, -nographic puts the serial port on stdio if nothing else is there.
absl::Status ResolveStdio(RawOptions* raw) {
  Options& options = raw->options;
  size_t users = options.serial.has_value() && options.serial->config.kind == ChardevConfig::Kind::kStdio ? 1 : 0;
  users += std::count_if(options.monitors.begin(), options.monitors.end(),
                         [](const MonitorOptions& m) { return m.chardev.kind == ChardevConfig::Kind::kStdio; });
  for (const VirtioDeviceConfig& device : options.devices) {
    users += std::count_if(device.ports.begin(), device.ports.end(), [](const VirtioPortConfig& port) {
      return port.chardev.kind == ChardevConfig::Kind::kStdio;
    });
  }
  if (users > 1) return absl::InvalidArgumentError("cannot use stdio by multiple character devices");
  if (options.nographic && !options.nodefaults && !options.serial.has_value() && users == 0) {
    options.serial = ChardevOption{.config = {.kind = ChardevConfig::Kind::kStdio}};
  }
  return absl::OkStatus();
}

absl::Status ResolveIncoming(RawOptions* raw) {
  if (!raw->incoming_deferred && raw->incoming_channels.empty()) return absl::OkStatus();
  std::vector<Channel> channels = raw->incoming_channels;
  // "defer" stands in for the main channel.
  if (raw->incoming_deferred) channels.push_back({ChannelType::kMain, {}});
  auto joined = JoinChannels(channels);
  if (!joined.ok()) return Annotate(joined.status(), "-incoming");
  raw->options.incoming = IncomingOptions{.cpr = joined->cpr};
  if (!raw->incoming_deferred) raw->options.incoming->main = joined->main;
  return absl::OkStatus();
}

absl::Status CheckBoot(const Options& options) {
  const auto refuse = [](absl::string_view why) { return absl::InvalidArgumentError(why); };
  if (!options.kernel.has_value()) {
    if (options.initrd.has_value()) return refuse("-initrd only allowed with -kernel option");
    if (options.append.has_value()) return refuse("-append only allowed with -kernel option");
    if (!options.incoming.has_value())
      return refuse("nothing to boot: this program has no firmware, -kernel is needed");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ResolveOptions(RawOptions* raw) {
  CPR_RETURN_IF_ERROR(ResolveMemory(raw));
  CPR_RETURN_IF_ERROR(ResolveSerial(raw));
  CPR_RETURN_IF_ERROR(ResolvePciDevices(raw));
  CPR_RETURN_IF_ERROR(ResolveStdio(raw));
  CPR_RETURN_IF_ERROR(ResolveIncoming(raw));
  return CheckBoot(raw->options);
}

}  // namespace cpr
