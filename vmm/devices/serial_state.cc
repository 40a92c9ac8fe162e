#include "vmm/devices/serial_state.h"

#include "libcpr/base/proto_fields.h"

namespace cpr {

v1::SerialState SerialStateToProto(const SerialState& state) {
  v1::SerialState proto;
  proto.set_divisor_latch(state.divisor_latch);
  proto.set_interrupt_enable(state.interrupt_enable);
  proto.set_fifo_control(state.fifo_control);
  proto.set_line_control(state.line_control);
  proto.set_modem_control(state.modem_control);
  proto.set_line_errors(state.line_errors);
  proto.set_modem_lines(state.modem_lines);
  proto.set_modem_deltas(state.modem_deltas);
  proto.set_scratch(state.scratch);
  proto.set_receive_fifo(state.receive_fifo);
  proto.set_transmit_interrupt(state.transmit_interrupt);
  return proto;
}

absl::StatusOr<SerialState> SerialStateFromProto(const v1::SerialState& proto) {
  SerialState state;
  CPR_TAKE_FIELD(proto, divisor_latch, &state.divisor_latch);
  CPR_TAKE_FIELD(proto, interrupt_enable, &state.interrupt_enable);
  CPR_TAKE_FIELD(proto, fifo_control, &state.fifo_control);
  CPR_TAKE_FIELD(proto, line_control, &state.line_control);
  CPR_TAKE_FIELD(proto, modem_control, &state.modem_control);
  CPR_TAKE_FIELD(proto, line_errors, &state.line_errors);
  CPR_TAKE_FIELD(proto, modem_lines, &state.modem_lines);
  CPR_TAKE_FIELD(proto, modem_deltas, &state.modem_deltas);
  CPR_TAKE_FIELD(proto, scratch, &state.scratch);
  CPR_TAKE_FIELD(proto, receive_fifo, &state.receive_fifo);
  CPR_TAKE_FIELD(proto, transmit_interrupt, &state.transmit_interrupt);
  return state;
}

}  // namespace cpr
