#include "vmm/chardev/chardev_state.h"

#include "absl/strings/str_cat.h"
#include "libcpr/base/proto_fields.h"

namespace cpr {
namespace {

using Kind = ChardevConfig::Kind;
static_assert(static_cast<int>(Kind::kNull) == v1::CHARDEV_KIND_NULL);
static_assert(static_cast<int>(Kind::kStdio) == v1::CHARDEV_KIND_STDIO);
static_assert(static_cast<int>(Kind::kFile) == v1::CHARDEV_KIND_FILE);
static_assert(static_cast<int>(Kind::kSocket) == v1::CHARDEV_KIND_SOCKET);
static_assert(static_cast<int>(Kind::kPty) == v1::CHARDEV_KIND_PTY);

absl::StatusOr<TtyModes> TtyModesFromProto(const v1::TtyModes& proto) {
  TtyModes modes;
  CPR_TAKE_FIELD(proto, iflag, &modes.iflag);
  CPR_TAKE_FIELD(proto, oflag, &modes.oflag);
  CPR_TAKE_FIELD(proto, cflag, &modes.cflag);
  CPR_TAKE_FIELD(proto, lflag, &modes.lflag);
  CPR_TAKE_FIELD(proto, control_chars, &modes.control_chars);
  return modes;
}

}  // namespace

v1::ChardevConfig ChardevConfigToProto(const ChardevConfig& config) {
  v1::ChardevConfig proto;
  proto.set_kind(static_cast<v1::ChardevKind>(config.kind));
  proto.set_path(config.path);
  proto.set_server(config.server);
  proto.set_wait(config.wait);
  proto.set_append(config.append);
  return proto;
}

absl::StatusOr<ChardevConfig> ChardevConfigFromProto(const v1::ChardevConfig& proto) {
  ChardevConfig config;
  CPR_TAKE_FIELD(proto, kind, &config.kind);
  if (!v1::ChardevKind_IsValid(proto.kind()) || config.kind == Kind::kUnspecified) {
    return absl::DataLossError(absl::StrCat("field 'kind' is ", proto.kind(), ": out of range"));
  }
  CPR_TAKE_FIELD(proto, path, &config.path);
  CPR_TAKE_FIELD(proto, server, &config.server);
  CPR_TAKE_FIELD(proto, wait, &config.wait);
  CPR_TAKE_FIELD(proto, append, &config.append);
  return config;
}

v1::ChardevState ChardevStateToProto(const ChardevState& state) {
  v1::ChardevState proto;
  proto.set_unwritten(state.unwritten);
  if (state.tty.has_value()) {
    v1::TtyModes& tty = *proto.mutable_tty();
    tty.set_iflag(state.tty->iflag);
    tty.set_oflag(state.tty->oflag);
    tty.set_cflag(state.tty->cflag);
    tty.set_lflag(state.tty->lflag);
    tty.set_control_chars(state.tty->control_chars);
  }
  proto.set_dropped_bytes(state.dropped_bytes);
  return proto;
}

absl::StatusOr<ChardevState> ChardevStateFromProto(const v1::ChardevState& proto) {
  ChardevState state;
  CPR_TAKE_FIELD(proto, unwritten, &state.unwritten);
  if (proto.has_tty()) {
    CPR_ASSIGN_OR_RETURN(state.tty, TtyModesFromProto(proto.tty()));
  }
  CPR_TAKE_FIELD(proto, dropped_bytes, &state.dropped_bytes);
  return state;
}

}  // namespace cpr
