#include "tests/golden/golden_state.h"

#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/struct.pb.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"

namespace cpr {
namespace {

constexpr char kProtoSection[] = "proto";

absl::Status AddBytes(ContainerWriter& writer, const SectionInfo& info, absl::string_view bytes) {
  return writer.Add(info, [bytes](std::string* payload) {
    payload->append(bytes.data(), bytes.size());
    return absl::OkStatus();
  });
}

google::protobuf::Struct ProtoPayload() {
  google::protobuf::Struct message;
  (*message.mutable_fields())["speed"].set_number_value(9600);
  (*message.mutable_fields())["break"].set_bool_value(true);
  (*message.mutable_fields())["fifo"].mutable_list_value()->add_values()->set_string_value("x");
  return message;
}

absl::StatusOr<std::string> DumpPayload(const SectionView& view) {
  if (view.info.name != kProtoSection) return absl::StrCat("  bytes ", absl::BytesToHexString(view.payload), "\n");
  CPR_ASSIGN_OR_RETURN(const auto message, DecodeProto<google::protobuf::Struct>(view.payload, view.info.version, 1));
  std::string text = "  message\n";
  // A map has no order of its own.
  for (const char* key : {"break", "fifo", "speed"}) {
    absl::StrAppend(&text, "    ", key, " { ", message.fields().at(key).ShortDebugString(), " }\n");
  }
  return text;
}

std::string DumpInfo(const SectionInfo& info) {
  return absl::StrCat("section ", info.name, " instance ", info.instance, " version ", info.version, " min_reader ",
                      info.min_reader_version, " ", StageName(info.stage), info.optional ? " optional\n" : "\n");
}

}  // namespace

absl::StatusOr<std::string> WriteGoldenState() {
  StateIdentity identity = {.created_at_realtime_ns = 1'700'000'000'123'456'789};
  for (size_t i = 0; i < identity.state_id.size(); ++i) identity.state_id[i] = static_cast<uint8_t>(0xa0 + i);
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) all_bytes.push_back(static_cast<char>(byte));

  std::string state;
  ContainerWriter writer(&state, identity);
  CPR_RETURN_IF_ERROR(AddBytes(writer, {.name = "machine", .stage = Stage::kEarly}, "early state"));
  CPR_RETURN_IF_ERROR(AddBytes(writer, {.name = "raw", .version = 4, .min_reader_version = 3}, all_bytes));
  CPR_RETURN_IF_ERROR(AddBytes(writer, {.name = "empty", .instance = 7, .optional = true}, ""));
  CPR_RETURN_IF_ERROR(AddBytes(writer,
                               {.name = std::string(kMaxSectionNameBytes, 'n'),
                                .instance = UINT32_MAX,
                                .version = UINT32_MAX,
                                .min_reader_version = UINT32_MAX},
                               "x"));
  CPR_RETURN_IF_ERROR(
      writer.Add({.name = kProtoSection}, [](std::string* payload) { return EncodeProto(ProtoPayload(), payload); }));
  CPR_RETURN_IF_ERROR(writer.Finish());
  return state;
}

absl::StatusOr<std::string> DumpState(absl::string_view state) {
  CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(state));
  const StateHeader& header = reader.header();
  const absl::string_view id(reinterpret_cast<const char*>(header.state_id.data()), header.state_id.size());
  std::string text =
      absl::StrCat("format ", header.format_major, ".", header.format_minor, " header_bytes ", header.header_bytes,
                   " arch ", ArchName(header.arch), " flags ", header.flags, "\ncreated_at_realtime_ns ",
                   header.created_at_realtime_ns, "\nstate_id ", absl::BytesToHexString(id), "\n");
  for (const SectionView& view : reader.sections()) {
    CPR_ASSIGN_OR_RETURN(const std::string payload, DumpPayload(view));
    absl::StrAppend(&text, DumpInfo(view.info), payload);
  }
  return text;
}

}  // namespace cpr
