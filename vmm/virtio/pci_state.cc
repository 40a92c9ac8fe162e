#include "vmm/virtio/pci_state.h"

#include "libcpr/base/proto_fields.h"

namespace cpr {

v1::VirtioPciState VirtioPciStateToProto(const VirtioPciState& state) {
  v1::VirtioPciState proto;
  proto.set_device_feature_select(state.device_feature_select);
  proto.set_driver_feature_select(state.driver_feature_select);
  proto.set_queue_select(state.queue_select);
  proto.set_config_vector(state.config_vector);
  for (const uint16_t vector : state.queue_vectors) proto.add_queue_vectors(vector);
  proto.set_interrupt_status(state.interrupt_status);
  return proto;
}

absl::StatusOr<VirtioPciState> VirtioPciStateFromProto(const v1::VirtioPciState& proto) {
  VirtioPciState state;
  CPR_TAKE_FIELD(proto, device_feature_select, &state.device_feature_select);
  CPR_TAKE_FIELD(proto, driver_feature_select, &state.driver_feature_select);
  CPR_TAKE_FIELD(proto, queue_select, &state.queue_select);
  CPR_TAKE_FIELD(proto, config_vector, &state.config_vector);
  for (const uint32_t vector : proto.queue_vectors()) {
    CPR_RETURN_IF_ERROR(TakeField(true, vector, "queue_vectors", &state.queue_vectors.emplace_back()));
  }
  CPR_TAKE_FIELD(proto, interrupt_status, &state.interrupt_status);
  return state;
}

}  // namespace cpr
