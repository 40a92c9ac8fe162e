#include "vmm/pci/pci_state.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "libcpr/base/proto_fields.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

absl::StatusOr<MsixVectorState> VectorFromProto(const v1::MsixVectorState& proto) {
  MsixVectorState state;
  CPR_TAKE_FIELD(proto, address, &state.message.address);
  if (state.message.address % 4 != 0) return absl::DataLossError("MSI-X address is not a multiple of 4");
  CPR_TAKE_FIELD(proto, data, &state.message.data);
  CPR_TAKE_FIELD(proto, masked, &state.masked);
  CPR_TAKE_FIELD(proto, pending, &state.pending);
  return state;
}

}  // namespace

v1::PciHostState PciHostStateToProto(const PciHostState& state) {
  v1::PciHostState proto;
  proto.set_address(state.address);
  return proto;
}

absl::StatusOr<PciHostState> PciHostStateFromProto(const v1::PciHostState& proto) {
  PciHostState state;
  CPR_TAKE_FIELD(proto, address, &state.address);
  return state;
}

v1::PciFunctionState PciFunctionStateToProto(const PciFunctionState& state) {
  v1::PciFunctionState proto;
  proto.set_config(state.config.data(), state.config.size());
  for (const MsixVectorState& vector : state.vectors) {
    v1::MsixVectorState& to = *proto.add_vectors();
    to.set_address(vector.message.address);
    to.set_data(vector.message.data);
    to.set_masked(vector.masked);
    to.set_pending(vector.pending);
  }
  proto.set_vector_count(static_cast<uint32_t>(state.vectors.size()));
  return proto;
}

absl::StatusOr<PciFunctionState> PciFunctionStateFromProto(const v1::PciFunctionState& proto) {
  PciFunctionState state;
  std::string config;
  CPR_TAKE_FIELD(proto, config, &config);
  state.config.assign(config.begin(), config.end());
  uint32_t count = 0;
  CPR_TAKE_FIELD(proto, vector_count, &count);
  if (count != static_cast<uint32_t>(proto.vectors_size())) {
    return absl::DataLossError(absl::StrCat(proto.vectors_size(), " MSI-X vectors, not ", count));
  }
  for (const v1::MsixVectorState& vector : proto.vectors()) {
    CPR_ASSIGN_OR_RETURN(state.vectors.emplace_back(), VectorFromProto(vector));
  }
  return state;
}

}  // namespace cpr
