#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/section_frame.h"

namespace cpr {
namespace {

using namespace internal;  // NOLINT: the frame's constants

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
    absl::StatusOr<SectionView> view = DecodeSection(section, *frame);
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
