#include "vmm/devices/cmos_state.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "libcpr/base/proto_fields.h"

namespace cpr {

v1::CmosState CmosStateToProto(const CmosState& state) {
  v1::CmosState proto;
  proto.set_selected_register(state.selected_register);
  proto.set_contents(state.contents.data(), state.contents.size());
  proto.set_clock_offset_seconds(state.clock_offset_seconds);
  return proto;
}

absl::StatusOr<CmosState> CmosStateFromProto(const v1::CmosState& proto) {
  CmosState state;
  CPR_TAKE_FIELD(proto, selected_register, &state.selected_register);
  std::string contents;
  CPR_TAKE_FIELD(proto, contents, &contents);
  if (contents.size() != state.contents.size()) {
    return absl::DataLossError(
        absl::StrCat("field 'contents' has ", contents.size(), " bytes, cmos memory has ", state.contents.size()));
  }
  std::copy(contents.begin(), contents.end(), state.contents.begin());
  CPR_TAKE_FIELD(proto, clock_offset_seconds, &state.clock_offset_seconds);
  return state;
}

}  // namespace cpr
