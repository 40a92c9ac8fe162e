#include "libcpr/vmstate/section_info.h"

#include <algorithm>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace cpr {
namespace {

bool NameIsValid(absl::string_view name) {
  if (name.empty() || name.size() > kMaxSectionNameBytes) return false;
  return std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f && c != '\'' && c != '"'; });
}

// Why a reader that knows `known` (nullptr: not even the name) cannot take the section; empty if it can.
std::string WhyUnreadable(const SectionInfo& info, const uint32_t* known) {
  if (known == nullptr) {
    return info.optional ? "" : absl::StrCat(DescribeSection(info), ": this reader does not know it");
  }
  if (info.min_reader_version <= *known) return "";
  return absl::StrCat(DescribeSection(info), ": needs reader >= ", info.min_reader_version, ", this reader knows ",
                      *known);
}

}  // namespace

absl::string_view StageName(Stage stage) {
  switch (stage) {
    case Stage::kEarly:
      return "early";
    case Stage::kLate:
      return "late";
    case Stage::kUnspecified:
      break;
  }
  return "unspecified";
}

std::string DescribeSection(const SectionInfo& info) {
  return absl::StrCat("section '", absl::CHexEscape(info.name), "' instance ", info.instance, " version ",
                      info.version);
}

absl::Status ValidateSectionInfo(const SectionInfo& info) {
  const auto error = [&info](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(DescribeSection(info), ": ", what));
  };
  if (!NameIsValid(info.name)) return error("a name is 1 to 128 printable ASCII characters without space or quote");
  if (info.version == 0) return error("versions begin at 1");
  if (info.min_reader_version == 0 || info.min_reader_version > info.version) {
    return error(absl::StrCat("min_reader_version ", info.min_reader_version, " is not within 1 and version"));
  }
  if (info.stage != Stage::kEarly && info.stage != Stage::kLate) return error("has no stage");
  return absl::OkStatus();
}

absl::Status CheckReadable(absl::Span<const SectionInfo> writer, absl::Span<const SectionSupport> reader) {
  absl::flat_hash_map<absl::string_view, uint32_t> known;
  for (const SectionSupport& support : reader) known[support.name] = std::max(known[support.name], support.version);
  std::vector<std::string> reasons;
  for (const SectionInfo& info : writer) {
    const auto found = known.find(info.name);
    std::string why = WhyUnreadable(info, found == known.end() ? nullptr : &found->second);
    if (!why.empty()) reasons.push_back(std::move(why));
  }
  if (reasons.empty()) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrJoin(reasons, "; "));
}

}  // namespace cpr
