#include "vmm/virtio/device_state.h"

#include <algorithm>

#include "libcpr/base/proto_fields.h"

namespace cpr {
namespace {

absl::StatusOr<VirtqueueState> VirtqueueStateFromProto(const v1::VirtqueueState& proto) {
  VirtqueueState state;
  CPR_TAKE_FIELD(proto, size, &state.size);
  CPR_TAKE_FIELD(proto, descriptors_gpa, &state.descriptors_gpa);
  CPR_TAKE_FIELD(proto, available_gpa, &state.available_gpa);
  CPR_TAKE_FIELD(proto, used_gpa, &state.used_gpa);
  CPR_TAKE_FIELD(proto, next_available, &state.next_available);
  CPR_TAKE_FIELD(proto, next_used, &state.next_used);
  CPR_TAKE_FIELD(proto, enabled, &state.enabled);
  return state;
}

absl::StatusOr<VirtioConsolePortState> PortFromProto(const v1::VirtioConsolePort& proto) {
  VirtioConsolePortState state;
  CPR_TAKE_FIELD(proto, name, &state.name);
  CPR_TAKE_FIELD(proto, pending_input, &state.pending_input);
  CPR_TAKE_FIELD(proto, announce, &state.announce);
  CPR_TAKE_FIELD(proto, tell_name, &state.tell_name);
  CPR_TAKE_FIELD(proto, tell_open, &state.tell_open);
  CPR_TAKE_FIELD(proto, guest_ready, &state.guest_ready);
  CPR_TAKE_FIELD(proto, guest_open, &state.guest_open);
  return state;
}

}  // namespace

v1::VirtioState VirtioStateToProto(const VirtioState& state) {
  v1::VirtioState proto;
  proto.set_driver_features(state.driver_features);
  proto.set_status(state.status);
  for (const VirtqueueState& queue : state.queues) {
    v1::VirtqueueState& added = *proto.add_queues();
    added.set_size(queue.size);
    added.set_descriptors_gpa(queue.descriptors_gpa);
    added.set_available_gpa(queue.available_gpa);
    added.set_used_gpa(queue.used_gpa);
    added.set_next_available(queue.next_available);
    added.set_next_used(queue.next_used);
    added.set_enabled(queue.enabled);
  }
  proto.set_config_generation(state.config_generation);
  return proto;
}

absl::StatusOr<VirtioState> VirtioStateFromProto(const v1::VirtioState& proto) {
  VirtioState state;
  CPR_TAKE_FIELD(proto, driver_features, &state.driver_features);
  CPR_TAKE_FIELD(proto, status, &state.status);
  for (const v1::VirtqueueState& queue : proto.queues()) {
    CPR_ASSIGN_OR_RETURN(state.queues.emplace_back(), VirtqueueStateFromProto(queue));
  }
  CPR_TAKE_FIELD(proto, config_generation, &state.config_generation);
  return state;
}

v1::VirtioBlkState VirtioBlkStateToProto(const VirtioBlkState& state) {
  v1::VirtioBlkState proto;
  *proto.mutable_device() = VirtioStateToProto(state.device);
  proto.set_capacity_sectors(state.capacity_sectors);
  return proto;
}

absl::StatusOr<VirtioBlkState> VirtioBlkStateFromProto(const v1::VirtioBlkState& proto) {
  VirtioBlkState state;
  CPR_ASSIGN_OR_RETURN(state.device, VirtioStateFromProto(proto.device()));
  CPR_TAKE_FIELD(proto, capacity_sectors, &state.capacity_sectors);
  return state;
}

v1::VirtioNetState VirtioNetStateToProto(const VirtioNetState& state) {
  v1::VirtioNetState proto;
  *proto.mutable_device() = VirtioStateToProto(state.device);
  proto.set_mac(state.mac.data(), state.mac.size());
  return proto;
}

absl::StatusOr<VirtioNetState> VirtioNetStateFromProto(const v1::VirtioNetState& proto) {
  VirtioNetState state;
  CPR_ASSIGN_OR_RETURN(state.device, VirtioStateFromProto(proto.device()));
  if (!proto.has_mac()) return absl::DataLossError("field 'mac' is missing");
  if (proto.mac().size() != state.mac.size()) return absl::DataLossError("field 'mac' is out of range");
  std::copy(proto.mac().begin(), proto.mac().end(), state.mac.begin());
  return state;
}

v1::VirtioConsoleState VirtioConsoleStateToProto(const VirtioConsoleState& state) {
  v1::VirtioConsoleState proto;
  *proto.mutable_device() = VirtioStateToProto(state.device);
  for (const VirtioConsolePortState& port : state.ports) {
    v1::VirtioConsolePort& added = *proto.add_ports();
    added.set_name(port.name);
    added.set_pending_input(port.pending_input);
    added.set_announce(port.announce);
    added.set_tell_name(port.tell_name);
    added.set_tell_open(port.tell_open);
    added.set_guest_ready(port.guest_ready);
    added.set_guest_open(port.guest_open);
  }
  proto.set_driver_ready(state.driver_ready);
  return proto;
}

absl::StatusOr<VirtioConsoleState> VirtioConsoleStateFromProto(const v1::VirtioConsoleState& proto) {
  VirtioConsoleState state;
  CPR_ASSIGN_OR_RETURN(state.device, VirtioStateFromProto(proto.device()));
  for (const v1::VirtioConsolePort& port : proto.ports()) {
    CPR_ASSIGN_OR_RETURN(state.ports.emplace_back(), PortFromProto(port));
  }
  CPR_TAKE_FIELD(proto, driver_ready, &state.driver_ready);
  return state;
}

}  // namespace cpr
