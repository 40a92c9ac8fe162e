#ifndef LIBCPR_VMSTATE_SECTION_INFO_H_
#define LIBCPR_VMSTATE_SECTION_INFO_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace cpr {

// Limits of one section; writer and reader hold to the same. A SectionHeader with the longest name is some 160 bytes.
inline constexpr uint32_t kMaxSectionHeaderBytes = 512;
// The largest section known, a GPU's or a VFIO device's migration data, is some MiB.
inline constexpr uint64_t kMaxSectionPayloadBytes = uint64_t{64} << 20;
// 64 vCPUs and 32 PCI buses of 32 devices are 1088.
inline constexpr uint32_t kMaxSections = 4096;

// A name appears in errors and monitors; 128 is more than any device needs and keeps a section's header small.
inline constexpr size_t kMaxSectionNameBytes = 128;

// When in a handover a section is saved and loaded.
enum class Stage {
  kUnspecified,
  kEarly,  // configuration and topology, what the new side needs to build the machine; saved while the guest runs
  kLate,   // saved while the guest is paused
};

absl::string_view StageName(Stage stage);

// What is said of a section without its payload. (name, instance) is unique in a machine and in a container.
struct SectionInfo {
  std::string name;                 // 1..kMaxSectionNameBytes printable ASCII characters, no space or quote
  uint32_t instance = 0;            // tells sections of one name apart
  uint32_t version = 1;             // what the payload is written as; >= 1
  uint32_t min_reader_version = 1;  // the oldest reader that loses nothing; 1..version
  bool optional = false;            // written: a reader may not know it.  Registered: it may be absent.
  Stage stage = Stage::kLate;
};

// A section in a container; the payload is lent by whoever has the bytes, and 8-byte aligned if those are.
struct SectionView {
  SectionInfo info;
  absl::string_view payload;
};

// What a reader can read, by name, before any machine exists: `version` is the newest it knows.
struct SectionSupport {
  std::string name;
  uint32_t version = 1;
};

// "section 'serial' instance 0 version 4", the beginning of every error about a section.
std::string DescribeSection(const SectionInfo& info);

// kInvalidArgument if `info` breaks one of the rules above. Thread-safe.
absl::Status ValidateSectionInfo(const SectionInfo& info);

// Whether `reader` can take all that `writer` has. An optional section it does not know is fine. kOutOfRange names
// every section that cannot be read, and why:
//   section 'serial' instance 0 version 4: needs reader >= 4, this reader knows 3; section 'tpm' ...
absl::Status CheckReadable(absl::Span<const SectionInfo> writer, absl::Span<const SectionSupport> reader);

}  // namespace cpr

#endif  // LIBCPR_VMSTATE_SECTION_INFO_H_
