// The state container: a fixed header, sections, a trailer; docs/wire-format.md has every byte.
//
//   std::string bytes;
//   ContainerWriter writer(&bytes);
//   CPR_RETURN_IF_ERROR(writer.Add({"serial"}, [&](std::string* payload) { return EncodeProto(state, payload); }));
//   CPR_RETURN_IF_ERROR(writer.Finish());
//   ...
//   CPR_ASSIGN_OR_RETURN(const ContainerReader reader, ContainerReader::Parse(bytes));
//   if (const ContainerReader::View* view = reader.Find("serial", 0)) Use(view->payload);
#ifndef LIBCPR_VMSTATE_CONTAINER_H_
#define LIBCPR_VMSTATE_CONTAINER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "libcpr/vmstate/section_info.h"
#include "libcpr/vmstate/state_header.h"

namespace cpr {

// Tells one saved state from every other; the random part alone is enough, the time is for people.
struct StateIdentity {
  uint64_t created_at_realtime_ns = 0;
  std::array<uint8_t, 16> state_id{};
};

// Writes one container into a string. Each section is encoded once, straight into that string, and checksummed
// there: call reserve() on it beforehand to keep it from moving. Thread-compatible.
class ContainerWriter {
 public:
  // `out` is emptied (its capacity stays), must outlive the writer and holds a whole container after Finish().
  // Without `identity` Finish() takes the time and random bytes.
  explicit ContainerWriter(std::string* out, std::optional<StateIdentity> identity = std::nullopt);

  // Appends a section; `save` appends its payload to the string it is given and leaves what is there alone.
  // An error names the section and leaves `out` as it was before the call; every later call returns it again, so
  // that a section cannot go missing unnoticed. kInvalidArgument: `info` is wrong, or its (name, instance) is taken.
  // kResourceExhausted: over a limit.  Else what `save` returned.
  absl::Status Add(const SectionInfo& info, absl::FunctionRef<absl::Status(std::string*)> save);

  // Completes header and trailer. kFailedPrecondition: finished already.
  absl::Status Finish();

  // As written; complete after Finish().
  const StateHeader& header() const { return header_; }

 private:
  absl::Status CheckAddable(const SectionInfo& info);
  absl::Status Append(const SectionInfo& info, absl::FunctionRef<absl::Status(std::string*)> save);

  std::string* out_;
  std::optional<StateIdentity> identity_;
  StateHeader header_;
  absl::flat_hash_set<std::pair<std::string, uint32_t>> taken_;
  uint32_t frames_crc_ = 0;
  absl::Status status_;
  bool finished_ = false;
};

// A container that has been checked from its first to its last byte. Thread-safe, since it never changes.
class ContainerReader {
 public:
  using View = SectionView;

  // `bytes` are exactly one container and must outlive the reader, unchanged but for the ownership block.
  // Checksums come before parsing, limits before allocation. The errors are those of ParseStateHeader, and
  // kDataLoss: cut, altered, or against the format; it names the section, by number and place while its header
  // is not to be trusted.
  static absl::StatusOr<ContainerReader> Parse(absl::string_view bytes);

  // ParseStateHeader(), for those who want to know what a file is or how many bytes to read.
  static absl::StatusOr<StateHeader> ParseHeader(absl::string_view first_bytes) {
    return ParseStateHeader(first_bytes);
  }

  const StateHeader& header() const { return header_; }
  // In the order written.
  absl::Span<const View> sections() const { return sections_; }
  // Lives as long as the reader; nullptr if there is none.
  const View* Find(absl::string_view name, uint32_t instance) const;

 private:
  ContainerReader() = default;
  absl::Status ParseSections(absl::string_view bytes);

  StateHeader header_;
  std::vector<View> sections_;
  absl::flat_hash_map<std::pair<std::string, uint32_t>, size_t> index_;
};

}  // namespace cpr

#endif  // LIBCPR_VMSTATE_CONTAINER_H_
