#include "tools/cprctl/inspect.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "libcpr/modes/ownership.h"
#include "libcpr/modes/ram_mark.h"
#include "libcpr/vmstate/container.h"
#include "libcpr/vmstate/section_frame.h"
#include "proto/cpr/v1/handover.pb.h"

namespace cpr {
namespace {

std::string FormatRealtime(uint64_t ns) {
  return absl::FormatTime(absl::FromUnixNanos(static_cast<int64_t>(ns)), absl::UTCTimeZone());
}

void AppendHeader(const StateHeader& header, uint64_t size_bytes, std::string* text) {
  absl::StrAppendFormat(text, "cpr state, format %d.%d, %s, %d of %d bytes\n", header.format_major, header.format_minor,
                        ArchName(header.arch), size_bytes, header.total_bytes());
  absl::StrAppend(text, "saved     ", FormatRealtime(header.created_at_realtime_ns), "\n");
  const absl::string_view id(reinterpret_cast<const char*>(header.state_id.data()), header.state_id.size());
  absl::StrAppend(text, "id        ", absl::BytesToHexString(id), "\n");
}

// What the word means to who finds a state and wonders whether to resume it.
absl::string_view DescribeOwner(uint64_t word) {
  switch (static_cast<Owner>(word)) {
    case Owner::kUnspecified:
      return "the state has not been handed over";
    case Owner::kOld:
      return "old, the guest is still the old program's";
    case Owner::kOffered:
      return "offered, the guest is whose program takes it first";
    case Owner::kNew:
      return "new, the guest has been resumed";
    case Owner::kReturned:
      return "returned, the guest goes back to the old program";
  }
  return "not a value that this cprctl knows";
}

void AppendOwnership(absl::string_view bytes, std::string* text) {
  if (bytes.size() < kHeaderBytes) return;
  const OwnershipBlock block = CopyOwnershipBlock(bytes);
  absl::StrAppendFormat(text, "ownership %d: %s; %s\n", block.word, DescribeOwner(block.word),
                        block.changed_at_realtime_ns == 0 ? "not changed since"
                                                          : "changed " + FormatRealtime(block.changed_at_realtime_ns));
}

void AppendSection(const SectionView& view, std::string* text) {
  const SectionInfo& info = view.info;
  absl::StrAppendFormat(text, "%-7s%10d%9d  >= %-5d%11d  ok     %s%s\n", StageName(info.stage), info.instance,
                        info.version, info.min_reader_version, view.payload.size(), info.name,
                        info.optional ? " (optional)" : "");
}

// Every section that can be found, also behind one that is damaged.
void AppendSections(absl::string_view rest, uint64_t at, std::string* text) {
  absl::StrAppend(text, "stage    instance  version  reader        bytes  crc32c section\n");
  while (!rest.empty()) {
    const absl::StatusOr<internal::Frame> frame = internal::DecodeFrame(rest);
    if (!frame.ok()) {
      absl::StrAppend(text, "at byte ", at, ": ", frame.status().message(), "\n");
      return;
    }
    const absl::StatusOr<SectionView> view = internal::DecodeSection(rest.substr(0, frame->section_bytes), *frame);
    if (view.ok()) {
      AppendSection(*view, text);
    } else {
      absl::StrAppend(text, "at byte ", at, ": BAD, ", frame->payload_bytes, " bytes: ", view.status().message(), "\n");
    }
    at += frame->section_bytes;
    rest.remove_prefix(frame->section_bytes);
  }
}

// A state that went through a stream: its own word is only a copy of what was true when it was saved.
void AppendMark(const ContainerReader& reader, std::string* text) {
  const ContainerReader::View* view = reader.Find("cpr/ram", 0);
  v1::RamState ram;
  if (view == nullptr || !ram.ParseFromArray(view->payload.data(), static_cast<int>(view->payload.size()))) return;
  if (ram.mark_id().empty()) return;
  absl::StrAppend(text, "saved into a stream: whether the guest has been resumed is said by mark ",
                  absl::BytesToHexString(ram.mark_id()), " in ", RamMarkPath(MarkedRamPath(ram)), "\n");
}

}  // namespace

absl::Status InspectState(absl::string_view bytes, std::string* text) {
  const absl::StatusOr<StateHeader> header = ContainerReader::ParseHeader(bytes);
  if (!header.ok()) return header.status();
  AppendHeader(*header, bytes.size(), text);
  AppendOwnership(bytes, text);
  const uint64_t trailer_at = header->total_bytes() - std::min<uint64_t>(header->body_bytes, internal::kTrailerBytes);
  const uint64_t end = std::min<uint64_t>(bytes.size(), trailer_at);
  if (end > header->header_bytes) {
    AppendSections(bytes.substr(header->header_bytes, end - header->header_bytes), header->header_bytes, text);
  }
  const absl::StatusOr<ContainerReader> reader = ContainerReader::Parse(bytes);
  if (reader.ok()) AppendMark(*reader, text);
  return reader.status();
}

}  // namespace cpr
