#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/proto_payload.h"
#include "libcpr/vmstate/section_frame.h"
#include "proto/cpr/v1/vmstate.pb.h"

namespace cpr {
namespace {

using namespace internal;  // NOLINT: the frame's constants

struct Frame {
  uint32_t header_bytes;
  uint64_t payload_bytes;
  uint64_t payload_at;  // from the section's begin
  uint64_t section_bytes;
};

absl::Status CheckLength(const StateHeader& header, uint64_t size) {
  if (size < header.total_bytes()) {
    return absl::DataLossError(absl::StrCat("state is cut: ", size, " of ", header.total_bytes(), " bytes"));
  }
  if (size > header.total_bytes()) {
    return absl::DataLossError(
        absl::StrCat("state has ", size - header.total_bytes(), " bytes after its end at ", header.total_bytes()));
  }
  if (header.body_bytes < kTrailerBytes || header.body_bytes % 8 != 0) {
    return absl::DataLossError(absl::StrCat("state header: body_bytes ", header.body_bytes, " cannot be"));
  }
  return absl::OkStatus();
}

absl::Status CheckSum(uint32_t written, uint32_t computed) {
  if (written == computed) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("checksum 0x", absl::Hex(written, absl::kZeroPad8),
                                          " does not match its bytes, 0x", absl::Hex(computed, absl::kZeroPad8)));
}

// The frame of the section that `rest`, up to the trailer, begins with; its bytes are all there.
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

// One section, checksum first, from its own bytes.
absl::StatusOr<ContainerReader::View> DecodeSection(absl::string_view section, const Frame& frame) {
  CPR_RETURN_IF_ERROR(CheckSum(LoadLe<uint32_t>(section, kFrameCrcAt), SectionCrc(section)));
  ContainerReader::View view;
  CPR_ASSIGN_OR_RETURN(view.info, DecodeInfo(section.substr(kFrameBytes, frame.header_bytes)));
  if (const absl::Status status = CheckPadding(section, frame); !status.ok())
    return Annotate(status, DescribeSection(view.info));
  view.payload = section.substr(frame.payload_at, frame.payload_bytes);
  return view;
}

}  // namespace

absl::StatusOr<ContainerReader> ContainerReader::Parse(absl::string_view bytes) {
  ContainerReader reader;
  CPR_ASSIGN_OR_RETURN(reader.header_, ParseStateHeader(bytes));
  CPR_RETURN_IF_ERROR(CheckLength(reader.header_, bytes.size()));
  CPR_RETURN_IF_ERROR(reader.ParseSections(bytes));
  return reader;
}

absl::Status ContainerReader::ParseSections(absl::string_view bytes) {
  const absl::string_view trailer = bytes.substr(bytes.size() - kTrailerBytes);
  if (trailer.substr(0, kTrailerMagic.size()) != kTrailerMagic) {
    return absl::DataLossError("state has no trailer: it is cut or altered");
  }
  const uint32_t count = LoadLe<uint32_t>(trailer, kTrailerCountAt);
  if (count > kMaxSections) {
    return absl::DataLossError(absl::StrCat("state trailer: ", count, " sections exceed the limit of ", kMaxSections));
  }
  absl::string_view rest = bytes.substr(header_.header_bytes, header_.body_bytes - kTrailerBytes);
  uint32_t frames_crc = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const std::string where = absl::StrCat("section ", i + 1, " of ", count, " at byte ", rest.data() - bytes.data());
    const absl::StatusOr<Frame> frame = DecodeFrame(rest);
    if (!frame.ok()) return Annotate(frame.status(), where);
    const absl::string_view section = rest.substr(0, frame->section_bytes);
    absl::StatusOr<View> view = DecodeSection(section, *frame);
    if (!view.ok()) return Annotate(view.status(), where);
    if (!index_.try_emplace({view->info.name, view->info.instance}, sections_.size()).second) {
      return absl::DataLossError(absl::StrCat(DescribeSection(view->info), ": is there twice"));
    }
    sections_.push_back(*std::move(view));
    frames_crc = ExtendFramesCrc(section, frames_crc);
    rest.remove_prefix(section.size());
  }
  if (!rest.empty()) {
    return absl::DataLossError(
        absl::StrCat("state has ", rest.size(), " bytes between its ", count, " sections and its trailer"));
  }
  return Annotate(
      CheckSum(LoadLe<uint32_t>(trailer, kTrailerCrcAt), TrailerCrc(bytes, header_.header_bytes, frames_crc)),
      "state trailer");
}

const ContainerReader::View* ContainerReader::Find(absl::string_view name, uint32_t instance) const {
  const auto found = index_.find(std::pair<std::string, uint32_t>(name, instance));
  return found == index_.end() ? nullptr : &sections_[found->second];
}

}  // namespace cpr
