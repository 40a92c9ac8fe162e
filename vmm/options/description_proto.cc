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
  return machine;
}

}  // namespace cpr
