#include "vmm/vfio/vfio_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libcpr/base/proto_fields.h"
#include "libcpr/base/status_macros.h"
#include "vmm/pci/msix.h"

namespace cpr {
namespace {

constexpr unsigned kMaxMsiVectors = 32, kIntxEventfds = 2;
constexpr unsigned kMaxInterrupts = Msix::kMaxVectors + kMaxMsiVectors + kIntxEventfds;

absl::StatusOr<VfioState::Device> DeviceFromProto(const v1::VfioDevice& proto) {
  VfioState::Device device;
  CPR_TAKE_FIELD(proto, group, &device.group);
  CPR_TAKE_FIELD(proto, interrupts, &device.interrupts);
  CPR_TAKE_FIELD(proto, vendor_id, &device.identity.vendor_id);
  CPR_TAKE_FIELD(proto, device_id, &device.identity.device_id);
  if (proto.bar_bytes_size() != static_cast<int>(kPciBars)) {
    return absl::DataLossError(absl::StrCat("a VFIO device with ", proto.bar_bytes_size(), " BARs"));
  }
  std::copy(proto.bar_bytes().begin(), proto.bar_bytes().end(), device.identity.bar_bytes.begin());
  if (device.interrupts <= kMaxInterrupts) return device;
  return absl::DataLossError(absl::StrCat("a VFIO device with ", device.interrupts, " interrupts"));
}

}  // namespace

v1::VfioState VfioStateToProto(const VfioState& state) {
  v1::VfioState proto;
  for (const VfioState::Mapping& mapping : state.mappings) {
    v1::VfioMapping* added = proto.add_mappings();
    added->set_gpa(mapping.gpa);
    added->set_size_bytes(mapping.size_bytes);
  }
  for (const VfioState::Iommufd& iommufd : state.iommufds) {
    v1::VfioIommufd* added = proto.add_iommufds();
    added->set_id(iommufd.id);
    added->set_ioas_id(iommufd.ioas_id);
  }
  for (const VfioState::Device& device : state.devices) {
    v1::VfioDevice* added = proto.add_devices();
    added->set_group(device.group);
    added->set_interrupts(device.interrupts);
    added->set_vendor_id(device.identity.vendor_id);
    added->set_device_id(device.identity.device_id);
    for (const uint64_t size_bytes : device.identity.bar_bytes) added->add_bar_bytes(size_bytes);
  }
  proto.set_device_count(static_cast<uint32_t>(state.devices.size()));
  proto.set_devices_come(state.devices_come);
  return proto;
}

absl::StatusOr<VfioState> VfioStateFromProto(const v1::VfioState& proto) {
  VfioState state;
  for (const v1::VfioMapping& mapping : proto.mappings()) {
    VfioState::Mapping& added = state.mappings.emplace_back();
    CPR_TAKE_FIELD(mapping, gpa, &added.gpa);
    CPR_TAKE_FIELD(mapping, size_bytes, &added.size_bytes);
  }
  for (const v1::VfioIommufd& iommufd : proto.iommufds()) {
    VfioState::Iommufd& added = state.iommufds.emplace_back();
    CPR_TAKE_FIELD(iommufd, id, &added.id);
    CPR_TAKE_FIELD(iommufd, ioas_id, &added.ioas_id);
  }
  for (const v1::VfioDevice& device : proto.devices()) {
    CPR_ASSIGN_OR_RETURN(state.devices.emplace_back(), DeviceFromProto(device));
  }
  size_t count = 0;
  CPR_TAKE_FIELD(proto, device_count, &count);
  CPR_TAKE_FIELD(proto, devices_come, &state.devices_come);
  if (count == state.devices.size()) return state;
  return absl::DataLossError(absl::StrCat(state.devices.size(), " VFIO devices, not ", count));
}

}  // namespace cpr
