#include "vmm/json/json.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/util/json_util.h"

namespace cpr {
namespace {

// How deep `text` nests. Counted before parsing, so that no recursion depends on the peer. Brackets in strings count
// too much, never too little.
int Depth(absl::string_view text) {
  int depth = 0;
  int deepest = 0;
  for (const char c : text) {
    if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
    if (c == '}' || c == ']') --depth;
  }
  return deepest;
}

// The length of the UTF-8 character that `text` begins with, 0 if it is none.
size_t Utf8Length(absl::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t length = lead < 0x80                   ? 1
                        : lead >= 0xc2 && lead < 0xe0 ? 2
                        : (lead >> 4) == 0xe          ? 3
                        : lead >= 0xf0 && lead < 0xf5 ? 4
                                                      : 0;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates and what lies beyond U+10FFFF show in the second byte.
  const auto second = length > 1 ? static_cast<unsigned char>(text[1]) : 0;
  if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f)) return 0;
  if ((lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) return 0;
  return length;
}

void AppendText(absl::string_view text, std::string* out) {
  out->push_back('"');
  while (!text.empty()) {
    const size_t length = Utf8Length(text);
    const char c = text[0];
    if (length == 0) {
      out->append("\\ufffd");
    } else if (c == '"' || c == '\\') {
      absl::StrAppend(out, "\\", std::string(1, c));
    } else if (c == '\n') {
      out->append("\\n");
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(out, "\\u%04x", c);
    } else {
      absl::StrAppend(out, text.substr(0, length));
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  out->push_back('"');
}

void AppendNumber(double number, std::string* out) {
  const bool integer = std::trunc(number) == number && std::fabs(number) < 1e18;
  if (integer) {
    absl::StrAppend(out, static_cast<int64_t>(number));
  } else {
    absl::StrAppendFormat(out, "%.17g", number);
  }
}

void AppendValue(const JsonValue& value, std::string* out);

void AppendObject(const JsonObject& object, std::string* out) {
  std::vector<absl::string_view> names;
  for (const auto& [name, unused] : object.fields()) names.push_back(name);
  std::sort(names.begin(), names.end());
  absl::string_view separator = "";
  out->push_back('{');
  for (const absl::string_view name : names) {
    absl::StrAppend(out, separator);
    AppendText(name, out);
    out->append(": ");
    AppendValue(object.fields().at(std::string(name)), out);
    separator = ", ";
  }
  out->push_back('}');
}

void AppendValue(const JsonValue& value, std::string* out) {
  switch (value.kind_case()) {
    case JsonValue::kStringValue:
      return AppendText(value.string_value(), out);
    case JsonValue::kNumberValue:
      return AppendNumber(value.number_value(), out);
    case JsonValue::kBoolValue:
      return absl::StrAppend(out, value.bool_value() ? "true" : "false");
    case JsonValue::kStructValue:
      return AppendObject(value.struct_value(), out);
    case JsonValue::kListValue: {
      absl::string_view separator = "";
      out->push_back('[');
      for (const JsonValue& element : value.list_value().values()) {
        absl::StrAppend(out, separator);
        AppendValue(element, out);
        separator = ", ";
      }
      out->push_back(']');
      return;
    }
    default:
      out->append("null");
  }
}

}  // namespace

absl::StatusOr<JsonValue> ParseJson(absl::string_view text) {
  if (text.size() > kMaxJsonBytes) return absl::InvalidArgumentError("JSON token size limit exceeded");
  if (Depth(text) > kMaxJsonDepth) return absl::InvalidArgumentError("JSON nesting depth limit exceeded");
  // protobuf takes an empty text for an empty message.
  if (text.find_first_not_of(" \t\r\n") == absl::string_view::npos) {
    return absl::InvalidArgumentError("JSON parse error, expecting value");
  }
  JsonValue value;
  const auto status =
      google::protobuf::util::JsonStringToMessage(google::protobuf::StringPiece(text.data(), text.size()), &value);
  if (!status.ok()) {
    const std::string detail(status.message().data(), status.message().size());
    return absl::InvalidArgumentError(absl::StrCat("JSON parse error, ", detail.substr(0, detail.find('\n'))));
  }
  return value;
}

std::string PrintJson(const JsonValue& value) {
  std::string out;
  AppendValue(value, &out);
  return out;
}

JsonValue JsonText(absl::string_view text) {
  JsonValue value;
  value.set_string_value(std::string(text));
  return value;
}

JsonValue JsonInteger(int64_t number) {
  JsonValue value;
  value.set_number_value(static_cast<double>(number));
  return value;
}

JsonValue JsonBool(bool on) {
  JsonValue value;
  value.set_bool_value(on);
  return value;
}

JsonValue JsonList(std::vector<JsonValue> values) {
  JsonValue list;
  list.mutable_list_value();
  for (JsonValue& value : values) *list.mutable_list_value()->add_values() = std::move(value);
  return list;
}

JsonValue JsonTexts(const std::vector<std::string>& texts) {
  std::vector<JsonValue> values;
  for (const std::string& text : texts) values.push_back(JsonText(text));
  return JsonList(std::move(values));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): its elements are moved out; the check does not see it
JsonValue JsonMembers(std::vector<std::pair<absl::string_view, JsonValue>> members) {
  JsonValue value;
  auto& fields = *value.mutable_struct_value()->mutable_fields();
  for (auto& [name, member] : members) fields[std::string(name)] = std::move(member);
  return value;
}

}  // namespace cpr
