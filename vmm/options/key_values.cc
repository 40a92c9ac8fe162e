#include "vmm/options/key_values.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

// Splits at single commas; a double one stands for itself.
std::vector<std::string> SplitElements(absl::string_view text) {
  std::vector<std::string> elements(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      elements.back().push_back(text[i]);
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      elements.back().push_back(text[i++]);
    } else {
      elements.emplace_back();
    }
  }
  return elements;
}

absl::Status Store(absl::string_view key, absl::string_view value, JsonObject* object) {
  const std::vector<std::string> path = absl::StrSplit(key, '.');
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i].empty()) return absl::InvalidArgumentError(absl::StrCat("Invalid parameter '", key, "'"));
    const bool last = i + 1 == path.size();
    JsonValue& member = (*object->mutable_fields())[path[i]];
    const auto other = last ? JsonValue::kStructValue : JsonValue::kStringValue;
    if (member.kind_case() == other) {
      return absl::InvalidArgumentError(absl::StrCat("Parameters '", path[i], ".*' used inconsistently"));
    }
    if (last) {
      member.set_string_value(std::string(value));
    } else {
      object = member.mutable_struct_value();
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JsonObject> ParseKeyValues(absl::string_view text, absl::string_view implied_key) {
  JsonObject object;
  if (text.empty()) return object;
  bool first = true;
  for (const std::string& element : SplitElements(text)) {
    absl::string_view key = element;
    absl::string_view value;
    if (const size_t equals = key.find('='); equals != absl::string_view::npos) {
      value = key.substr(equals + 1);
      key = key.substr(0, equals);
    } else if (first && !implied_key.empty()) {
      value = key;
      key = implied_key;
    } else {
      value = absl::ConsumePrefix(&key, "no") ? "off" : "on";
    }
    if (key.empty()) return absl::InvalidArgumentError(absl::StrCat("Expected parameter before '", element, "'"));
    CPR_RETURN_IF_ERROR(Store(key, value, &object));
    first = false;
  }
  return object;
}

absl::StatusOr<JsonObject> ParseKeyValuesOrJson(absl::string_view text, absl::string_view implied_key, bool* is_json) {
  *is_json = absl::StartsWith(text, "{");
  if (!*is_json) return ParseKeyValues(text, implied_key);
  CPR_ASSIGN_OR_RETURN(JsonValue value, ParseJson(text));
  return value.struct_value();
}

}  // namespace cpr
