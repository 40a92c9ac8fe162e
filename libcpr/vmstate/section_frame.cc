#include "libcpr/vmstate/section_frame.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/proto_payload.h"
#include "proto/cpr/v1/vmstate.pb.h"

namespace cpr::internal {
namespace {

bool IsZero(absl::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == '\0'; });
}

// What lies between would be lost when the state is written again, so it must be nothing.
absl::Status CheckPadding(absl::string_view section, const Frame& frame) {
  const size_t header_end = kFrameBytes + frame.header_bytes;
  if (IsZero(section.substr(header_end, frame.payload_at - header_end)) &&
      IsZero(section.substr(frame.payload_at + frame.payload_bytes))) {
    return absl::OkStatus();
  }
  return absl::DataLossError("padding is not zero");
}

absl::StatusOr<SectionInfo> DecodeInfo(absl::string_view bytes) {
  v1::SectionHeader proto;
  CPR_RETURN_IF_ERROR(DecodeProtoInto(bytes, kFormatMajor, kFormatMajor, &proto));
  SectionInfo info;
  info.name = proto.name();
  info.instance = proto.instance();
  info.version = proto.version();
  info.min_reader_version = proto.min_reader_version();
  info.optional = proto.optional();
  info.stage = proto.stage() == v1::SECTION_STAGE_EARLY  ? Stage::kEarly
               : proto.stage() == v1::SECTION_STAGE_LATE ? Stage::kLate
                                                         : Stage::kUnspecified;
  if (const absl::Status status = ValidateSectionInfo(info); !status.ok()) return absl::DataLossError(status.message());
  return info;
}

}  // namespace

absl::Status CheckSum(uint32_t written, uint32_t computed) {
  if (written == computed) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("checksum 0x", absl::Hex(written, absl::kZeroPad8),
                                          " does not match its bytes, 0x", absl::Hex(computed, absl::kZeroPad8)));
}

absl::StatusOr<Frame> DecodeFrame(absl::string_view rest) {
  if (rest.size() < kFrameBytes)
    return absl::DataLossError(absl::StrCat(rest.size(), " bytes are too few for a section"));
  Frame frame;
  frame.header_bytes = LoadLe<uint32_t>(rest, kFrameHeaderBytesAt);
  frame.payload_bytes = LoadLe<uint64_t>(rest, kFramePayloadBytesAt);
  if (frame.header_bytes > kMaxSectionHeaderBytes || frame.payload_bytes > kMaxSectionPayloadBytes) {
    return absl::DataLossError(absl::StrCat("header of ", frame.header_bytes, " and payload of ", frame.payload_bytes,
                                            " bytes exceed the limits of ", kMaxSectionHeaderBytes, " and ",
                                            kMaxSectionPayloadBytes));
  }
  frame.payload_at = AlignUp(kFrameBytes + frame.header_bytes);
  frame.section_bytes = AlignUp(frame.payload_at + frame.payload_bytes);
  if (frame.section_bytes > rest.size()) {
    return absl::DataLossError(
        absl::StrCat(frame.section_bytes, " bytes reach past the ", rest.size(), " that are left"));
  }
  return frame;
}

absl::StatusOr<SectionView> DecodeSection(absl::string_view section, const Frame& frame) {
  CPR_RETURN_IF_ERROR(CheckSum(LoadLe<uint32_t>(section, kFrameCrcAt), SectionCrc(section)));
  SectionView view;
  CPR_ASSIGN_OR_RETURN(view.info, DecodeInfo(section.substr(kFrameBytes, frame.header_bytes)));
  if (const absl::Status status = CheckPadding(section, frame); !status.ok())
    return Annotate(status, DescribeSection(view.info));
  view.payload = section.substr(frame.payload_at, frame.payload_bytes);
  return view;
}

}  // namespace cpr::internal
