#include "vmm/devices/ioapic_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libcpr/base/proto_fields.h"

namespace cpr {

v1::IoapicState IoapicStateToProto(const IoapicState& state) {
  v1::IoapicState proto;
  proto.set_id(state.id);
  proto.set_selected_register(state.selected_register);
  for (const uint64_t entry : state.redirection_entries) proto.add_redirection_entries(entry);
  proto.set_lines(state.lines);
  return proto;
}

absl::StatusOr<IoapicState> IoapicStateFromProto(const v1::IoapicState& proto) {
  IoapicState state;
  CPR_TAKE_FIELD(proto, id, &state.id);
  CPR_TAKE_FIELD(proto, selected_register, &state.selected_register);
  if (proto.redirection_entries_size() != static_cast<int>(kIoapicPins)) {
    return absl::DataLossError(absl::StrCat("field 'redirection_entries' has ", proto.redirection_entries_size(),
                                            " values, an ioapic has ", kIoapicPins));
  }
  std::copy(proto.redirection_entries().begin(), proto.redirection_entries().end(), state.redirection_entries.begin());
  CPR_TAKE_FIELD(proto, lines, &state.lines);
  return state;
}

}  // namespace cpr
