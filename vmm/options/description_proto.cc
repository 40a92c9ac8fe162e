#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/proto_fields.h"
#include "libcpr/base/status_util.h"
#include "vmm/chardev/chardev_state.h"
#include "vmm/options/description.h"

namespace cpr {
namespace {

static_assert(static_cast<int>(MemoryBackendKind::kFile) == v1::MEMORY_BACKEND_KIND_FILE);
static_assert(static_cast<int>(MemoryBackendKind::kMemfd) == v1::MEMORY_BACKEND_KIND_MEMFD);
static_assert(static_cast<int>(MemoryBackendKind::kRam) == v1::MEMORY_BACKEND_KIND_RAM);
static_assert(static_cast<int>(IrqchipKind::kSplit) == v1::MACHINE_IRQCHIP_SPLIT);
static_assert(static_cast<int>(IrqchipKind::kKernel) == v1::MACHINE_IRQCHIP_KERNEL);

static_assert(static_cast<int>(VirtioDeviceConfig::Kind::kBlk) == v1::MACHINE_VIRTIO_KIND_BLK);
static_assert(static_cast<int>(VirtioDeviceConfig::Kind::kSerial) == v1::MACHINE_VIRTIO_KIND_SERIAL);
static_assert(static_cast<int>(VirtioDeviceConfig::Kind::kRng) == v1::MACHINE_VIRTIO_KIND_RNG);
static_assert(static_cast<int>(VirtioDeviceConfig::Kind::kNet) == v1::MACHINE_VIRTIO_KIND_NET);

absl::Status OutOfRange(absl::string_view field) {
  return absl::DataLossError(absl::StrCat("field '", field, "' is out of range"));
}

v1::MachineMemory MemoryToProto(const MemoryBackend& memory) {
  v1::MachineMemory proto;
  proto.set_kind(static_cast<v1::MemoryBackendKind>(memory.kind));
  proto.set_id(memory.id);
  proto.set_size_bytes(memory.size_bytes);
  proto.set_share(memory.share);
  proto.set_mem_path(memory.mem_path);
  proto.set_align_bytes(memory.align_bytes);
  proto.set_hugetlb(memory.hugetlb);
  proto.set_hugetlb_size_bytes(memory.hugetlb_size_bytes);
  proto.set_prealloc(memory.prealloc);
  return proto;
}

absl::StatusOr<MemoryBackend> MemoryFromProto(const v1::MachineMemory& proto) {
  MemoryBackend memory;
  CPR_TAKE_FIELD(proto, kind, &memory.kind);
  CPR_TAKE_FIELD(proto, id, &memory.id);
  CPR_TAKE_FIELD(proto, size_bytes, &memory.size_bytes);
  CPR_TAKE_FIELD(proto, share, &memory.share);
  CPR_TAKE_FIELD(proto, mem_path, &memory.mem_path);
  CPR_TAKE_FIELD(proto, align_bytes, &memory.align_bytes);
  CPR_TAKE_FIELD(proto, hugetlb, &memory.hugetlb);
  CPR_TAKE_FIELD(proto, hugetlb_size_bytes, &memory.hugetlb_size_bytes);
  CPR_TAKE_FIELD(proto, prealloc, &memory.prealloc);
  if (proto.kind() == v1::MEMORY_BACKEND_KIND_UNSPECIFIED || !v1::MemoryBackendKind_IsValid(proto.kind())) {
    return OutOfRange("kind");
  }
  if (memory.kind != MemoryBackendKind::kFile && !memory.mem_path.empty()) return OutOfRange("mem_path");
  if (const absl::Status status = CheckMemoryBackend(memory); !status.ok()) {
    return absl::DataLossError(absl::StrCat("field 'memory': ", status.message()));
  }
  return memory;
}

absl::Status TakeSerial(const v1::MachineDescription& proto, MachineDescription* machine) {
  machine->serial.emplace();
  machine->serial->none = !proto.has_serial();
  if (!proto.has_serial()) return absl::OkStatus();
  auto config = ChardevConfigFromProto(proto.serial());
  if (!config.ok()) return Annotate(config.status(), "field 'serial'");
  machine->serial->config = *std::move(config);
  return absl::OkStatus();
}

void PortToProto(const VirtioPortConfig& port, v1::MachineVirtioPort* proto) {
  proto->set_name(port.name);
  proto->set_chardev_id(port.chardev_id);
  *proto->mutable_chardev() = ChardevConfigToProto(port.chardev);
}

absl::StatusOr<VirtioPortConfig> PortFromProto(const v1::MachineVirtioPort& proto) {
  VirtioPortConfig port;
  CPR_TAKE_FIELD(proto, name, &port.name);
  CPR_TAKE_FIELD(proto, chardev_id, &port.chardev_id);
  if (port.name.size() > kMaxVirtioPortNameBytes) return OutOfRange("name");
  CPR_ASSIGN_OR_RETURN(port.chardev, ChardevConfigFromProto(proto.chardev()));
  return port;
}

void NetToProto(const VirtioNetConfig& net, v1::MachineVirtioNet* proto) {
  proto->set_netdev_id(net.netdev_id);
  proto->set_interface(net.interface);
  proto->set_mac(net.mac.data(), net.mac.size());
  proto->set_vhost(net.vhost);
}

absl::StatusOr<VirtioNetConfig> NetFromProto(const v1::MachineVirtioNet& proto) {
  VirtioNetConfig net;
  std::string mac;
  CPR_TAKE_FIELD(proto, netdev_id, &net.netdev_id);
  CPR_TAKE_FIELD(proto, interface, &net.interface);
  CPR_TAKE_FIELD(proto, mac, &mac);
  CPR_TAKE_FIELD(proto, vhost, &net.vhost);
  if (mac.size() != net.mac.size()) return OutOfRange("mac");
  std::copy(mac.begin(), mac.end(), net.mac.begin());
  return net;
}

void DeviceToProto(const VirtioDeviceConfig& device, v1::MachineVirtioDevice* proto) {
  proto->set_kind(static_cast<v1::MachineVirtioKind>(device.kind));
  proto->set_slot(device.slot);
  proto->set_id(device.id);
  proto->set_path(device.path);
  proto->set_read_only(device.read_only);
  proto->set_serial(device.serial);
  for (const VirtioPortConfig& port : device.ports) PortToProto(port, proto->add_ports());
  if (device.kind == VirtioDeviceConfig::Kind::kNet) NetToProto(device.net, proto->mutable_net());
}

absl::Status CheckDevice(const v1::MachineVirtioDevice& proto) {
  const bool blk = proto.kind() == v1::MACHINE_VIRTIO_KIND_BLK;
  if (proto.kind() == v1::MACHINE_VIRTIO_KIND_UNSPECIFIED || !v1::MachineVirtioKind_IsValid(proto.kind())) {
    return OutOfRange("kind");
  }
  if (proto.slot() == 0 || proto.slot() >= kVirtioSlots) return OutOfRange("slot");
  if (blk ? !absl::StartsWith(proto.path(), "/") : !proto.path().empty()) return OutOfRange("path");
  const bool serial = proto.kind() == v1::MACHINE_VIRTIO_KIND_SERIAL;
  if (static_cast<size_t>(proto.ports_size()) > (serial ? kMaxVirtioPorts : 0)) return OutOfRange("ports");
  if (proto.has_net() != (proto.kind() == v1::MACHINE_VIRTIO_KIND_NET)) return OutOfRange("net");
  return absl::OkStatus();
}

absl::StatusOr<VirtioDeviceConfig> DeviceFromProto(const v1::MachineVirtioDevice& proto) {
  VirtioDeviceConfig device;
  CPR_TAKE_FIELD(proto, kind, &device.kind);
  CPR_TAKE_FIELD(proto, slot, &device.slot);
  CPR_TAKE_FIELD(proto, id, &device.id);
  CPR_TAKE_FIELD(proto, path, &device.path);
  CPR_TAKE_FIELD(proto, read_only, &device.read_only);
  CPR_TAKE_FIELD(proto, serial, &device.serial);
  CPR_RETURN_IF_ERROR(CheckDevice(proto));
  for (const v1::MachineVirtioPort& port : proto.ports()) {
    CPR_ASSIGN_OR_RETURN(device.ports.emplace_back(), PortFromProto(port));
  }
  if (!proto.has_net()) return device;
  CPR_ASSIGN_OR_RETURN(device.net, NetFromProto(proto.net()));
  return device;
}

void VfioDeviceToProto(const VfioDeviceConfig& device, v1::MachineVfioDevice* proto) {
  proto->set_slot(device.slot);
  proto->set_id(device.id);
  proto->set_host(device.host);
  proto->set_iommufd(device.iommufd);
}

absl::StatusOr<VfioDeviceConfig> VfioDeviceFromProto(const v1::MachineVfioDevice& proto) {
  VfioDeviceConfig device;
  CPR_TAKE_FIELD(proto, slot, &device.slot);
  CPR_TAKE_FIELD(proto, id, &device.id);
  CPR_TAKE_FIELD(proto, host, &device.host);
  CPR_TAKE_FIELD(proto, iommufd, &device.iommufd);
  if (device.slot == 0 || device.slot >= kVirtioSlots) return OutOfRange("slot");
  if (CanonicalHostAddress(device.host) != device.host) return OutOfRange("host");
  if (!device.iommufd.empty() && !IsIdentifier(device.iommufd)) return OutOfRange("iommufd");
  return device;
}

// `slots` has those that are taken, and gets those taken here.
absl::Status TakeVfioDevices(const v1::MachineDevices& proto, std::set<unsigned>* slots, MachineDescription* machine) {
  std::set<std::string> hosts;
  machine->vfio_devices.emplace();
  for (const v1::MachineVfioDevice& device_proto : proto.vfio()) {
    auto device = VfioDeviceFromProto(device_proto);
    if (!device.ok()) return Annotate(device.status(), "field 'devices'");
    if (!slots->insert(device->slot).second || !hosts.insert(device->host).second) return OutOfRange("devices");
    machine->vfio_devices->push_back(*std::move(device));
  }
  return absl::OkStatus();
}

absl::Status TakeDevices(const v1::MachineDescription& proto, MachineDescription* machine) {
  if (!proto.has_devices()) return absl::DataLossError("field 'devices' is missing");
  std::set<unsigned> slots;
  machine->devices.emplace();
  for (const v1::MachineVirtioDevice& device_proto : proto.devices().virtio()) {
    auto device = DeviceFromProto(device_proto);
    if (!device.ok()) return Annotate(device.status(), "field 'devices'");
    if (!slots.insert(device->slot).second) return OutOfRange("devices");
    machine->devices->push_back(*std::move(device));
  }
  return TakeVfioDevices(proto.devices(), &slots, machine);
}

absl::Status CheckMachine(const v1::MachineDescription& proto) {
  if (proto.type() != v1::MACHINE_TYPE_Q35) return OutOfRange("type");
  if (proto.irqchip() != v1::MACHINE_IRQCHIP_SPLIT && proto.irqchip() != v1::MACHINE_IRQCHIP_KERNEL) {
    return OutOfRange("irqchip");
  }
  if (proto.vcpus() == 0 || proto.vcpus() > kMaxVcpus) return OutOfRange("vcpus");
  if (!proto.kernel().empty() && !absl::StartsWith(proto.kernel(), "/")) return OutOfRange("kernel");
  if (!proto.initrd().empty() && !absl::StartsWith(proto.initrd(), "/")) return OutOfRange("initrd");
  if (!proto.uuid().empty() && !IsUuid(proto.uuid())) return OutOfRange("uuid");
  return absl::OkStatus();
}

}  // namespace

v1::MachineDescription MachineDescriptionToProto(const MachineDescription& machine) {
  v1::MachineDescription proto;
  proto.set_type(v1::MACHINE_TYPE_Q35);
  proto.set_irqchip(static_cast<v1::MachineIrqchip>(*machine.irqchip));
  proto.set_vcpus(*machine.vcpus);
  *proto.mutable_memory() = MemoryToProto(*machine.memory);
  proto.set_kernel(*machine.kernel);
  proto.set_initrd(*machine.initrd);
  proto.set_append(*machine.append);
  if (!machine.serial->none) *proto.mutable_serial() = ChardevConfigToProto(machine.serial->config);
  proto.set_name(*machine.name);
  proto.set_uuid(*machine.uuid);
  proto.mutable_devices();
  for (const VirtioDeviceConfig& device : *machine.devices)
    DeviceToProto(device, proto.mutable_devices()->add_virtio());
  for (const VfioDeviceConfig& device : *machine.vfio_devices)
    VfioDeviceToProto(device, proto.mutable_devices()->add_vfio());
  return proto;
}

absl::StatusOr<MachineDescription> MachineDescriptionFromProto(const v1::MachineDescription& proto) {
  MachineDescription machine;
  v1::MachineType type;
  CPR_TAKE_FIELD(proto, type, &type);
  CPR_TAKE_FIELD(proto, irqchip, &machine.irqchip.emplace());
  CPR_TAKE_FIELD(proto, vcpus, &machine.vcpus.emplace());
  CPR_TAKE_FIELD(proto, kernel, &machine.kernel.emplace());
  CPR_TAKE_FIELD(proto, initrd, &machine.initrd.emplace());
  CPR_TAKE_FIELD(proto, append, &machine.append.emplace());
  CPR_TAKE_FIELD(proto, name, &machine.name.emplace());
  CPR_TAKE_FIELD(proto, uuid, &machine.uuid.emplace());
  CPR_RETURN_IF_ERROR(CheckMachine(proto));
  if (!proto.has_memory()) return absl::DataLossError("field 'memory' is missing");
  CPR_ASSIGN_OR_RETURN(machine.memory, MemoryFromProto(proto.memory()));
  machine.memory_bytes = machine.memory->size_bytes;
  CPR_RETURN_IF_ERROR(TakeSerial(proto, &machine));
  CPR_RETURN_IF_ERROR(TakeDevices(proto, &machine));
  return machine;
}

}  // namespace cpr
