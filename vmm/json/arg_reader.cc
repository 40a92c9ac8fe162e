#include "vmm/json/arg_reader.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace cpr {
namespace {

constexpr double kExactIntegers = 9007199254740992.0;  // 2^53: from here on a double skips integers

std::optional<uint64_t> ParseUint64(absl::string_view text, bool hexadecimal) {
  uint64_t value = 0;
  if (text.empty() || !absl::ascii_isalnum(text[0])) return std::nullopt;  // no sign, no space
  const bool ok = hexadecimal ? absl::SimpleHexAtoi(text, &value) : absl::SimpleAtoi(text, &value);
  return ok ? std::make_optional(value) : std::nullopt;
}

}  // namespace

std::optional<uint64_t> ParseSize(absl::string_view text, uint64_t unit_bytes) {
  if (absl::ConsumePrefix(&text, "0x") || absl::ConsumePrefix(&text, "0X")) return ParseUint64(text, true);
  if (text.empty()) return std::nullopt;
  constexpr absl::string_view kSuffixes = "bkmgtpe";
  if (const size_t power = kSuffixes.find(absl::ascii_tolower(text.back())); power != absl::string_view::npos) {
    unit_bytes = uint64_t{1} << (10 * power);
    text.remove_suffix(1);
  }
  const size_t point = std::min(text.find('.'), text.size());
  const auto whole = ParseUint64(text.substr(0, point), false);
  if (!whole.has_value()) return std::nullopt;
  unsigned __int128 bytes = static_cast<unsigned __int128>(*whole) * unit_bytes;
  if (point < text.size()) {
    const absl::string_view digits = text.substr(point + 1);
    const auto fraction = ParseUint64(digits, false);
    if (!fraction.has_value() || digits.size() > 15) return std::nullopt;
    unsigned __int128 scale = 1;
    for (size_t i = 0; i < digits.size(); ++i) scale *= 10;
    bytes += static_cast<unsigned __int128>(*fraction) * unit_bytes / scale;
  }
  if (bytes > UINT64_MAX) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

const JsonValue* ArgReader::Find(absl::string_view name) {
  asked_.emplace(name);
  const auto found = object_.fields().find(std::string(name));
  return found == object_.fields().end() ? nullptr : &found->second;
}

void ArgReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void ArgReader::FailMissing(absl::string_view name) {
  Fail(absl::InvalidArgumentError(absl::StrCat("Parameter '", FullName(name), "' is missing")));
}

void ArgReader::FailType(absl::string_view name, absl::string_view expected) {
  Fail(absl::InvalidArgumentError(
      absl::StrCat("Invalid parameter type for '", FullName(name), "', expected: ", expected)));
}

std::optional<std::string> ArgReader::String(absl::string_view name) {
  const JsonValue* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->kind_case() != JsonValue::kStringValue) FailType(name, "string");
  return value->string_value();
}

std::string ArgReader::RequiredString(absl::string_view name) {
  const auto text = String(name);
  if (!text.has_value()) FailMissing(name);
  return text.value_or("");
}

std::optional<bool> ArgReader::Bool(absl::string_view name) {
  const JsonValue* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (source_ == ArgSource::kJson) {
    if (value->kind_case() != JsonValue::kBoolValue) FailType(name, "boolean");
    return value->bool_value();
  }
  const std::string& text = value->string_value();
  const bool on = text == "on" || text == "yes" || text == "true" || text == "y";
  if (!on && text != "off" && text != "no" && text != "false" && text != "n") {
    Fail(absl::InvalidArgumentError(absl::StrCat("Parameter '", FullName(name), "' expects 'on' or 'off'")));
  }
  return on;
}

std::optional<uint64_t> ArgReader::Size(absl::string_view name, uint64_t unit_bytes) {
  if (source_ == ArgSource::kJson) return Integer(name);
  const auto text = String(name);
  if (!text.has_value()) return std::nullopt;
  const auto size_bytes = ParseSize(*text, unit_bytes);
  if (!size_bytes.has_value()) {
    Fail(absl::InvalidArgumentError(
        absl::StrCat("Parameter '", FullName(name), "' expects a non-negative number below 2^64")));
  }
  return size_bytes;
}

std::optional<uint64_t> ArgReader::Integer(absl::string_view name) {
  const JsonValue* value = Find(name);
  if (value == nullptr) return std::nullopt;
  std::optional<uint64_t> number;
  if (source_ == ArgSource::kKeyValues) {
    number = ParseUint64(value->string_value(), false);
  } else if (value->kind_case() != JsonValue::kNumberValue) {
    FailType(name, "integer");
  } else if (const double d = value->number_value(); d >= 0 && d <= kExactIntegers && std::trunc(d) == d) {
    number = static_cast<uint64_t>(d);
  }
  if (!number.has_value()) {
    Fail(absl::InvalidArgumentError(absl::StrCat("Parameter '", FullName(name), "' expects uint64")));
  }
  return number;
}

std::optional<std::vector<std::string>> ArgReader::StringList(absl::string_view name) {
  const JsonValue* value = Find(name);
  if (value == nullptr) return std::nullopt;
  std::vector<std::string> texts;
  if (source_ == ArgSource::kKeyValues) {
    const auto& fields = value->struct_value().fields();
    for (auto at = fields.find("0"); at != fields.end(); at = fields.find(absl::StrCat(texts.size()))) {
      texts.push_back(at->second.string_value());
    }
    if (texts.empty() || texts.size() != fields.size()) FailType(name, "array");
    return texts;
  }
  if (value->kind_case() != JsonValue::kListValue) FailType(name, "array");
  for (const JsonValue& element : value->list_value().values()) {
    if (element.kind_case() != JsonValue::kStringValue) FailType(absl::StrCat(name, "[", texts.size(), "]"), "string");
    texts.push_back(element.string_value());
  }
  return texts;
}

const JsonObject* ArgReader::Object(absl::string_view name) {
  const JsonValue* value = Find(name);
  if (value == nullptr) return nullptr;
  if (value->kind_case() != JsonValue::kStructValue) FailType(name, "object");
  return &value->struct_value();
}

const JsonObject* ArgReader::RequiredObject(absl::string_view name) {
  const JsonObject* object = Object(name);
  if (object != nullptr) return object;
  FailMissing(name);
  return &JsonObject::default_instance();
}

std::optional<std::vector<std::pair<std::string, const JsonObject*>>> ArgReader::ObjectList(absl::string_view name) {
  const JsonValue* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->kind_case() != JsonValue::kListValue) FailType(name, "array");
  std::vector<std::pair<std::string, const JsonObject*>> objects;
  for (const JsonValue& element : value->list_value().values()) {
    const std::string element_name = absl::StrCat(name, "[", objects.size(), "]");
    if (element.kind_case() != JsonValue::kStructValue) FailType(element_name, "object");
    objects.emplace_back(FullName(element_name), &element.struct_value());
  }
  return objects;
}

std::optional<std::string> ArgReader::OneOf(absl::string_view name, const std::vector<absl::string_view>& allowed) {
  const auto text = String(name);
  if (text.has_value() && std::find(allowed.begin(), allowed.end(), *text) == allowed.end()) {
    Fail(absl::InvalidArgumentError(
        absl::StrCat("Parameter '", FullName(name), "' does not accept value '", *text, "'")));
  }
  return text;
}

std::string ArgReader::RequiredOneOf(absl::string_view name, const std::vector<absl::string_view>& allowed) {
  const auto text = OneOf(name, allowed);
  if (!text.has_value()) FailMissing(name);
  return text.value_or("");
}

std::optional<std::string> ArgReader::Unexpected() const {
  std::set<std::string> unexpected;  // sorted, so that the message does not depend on a hash
  for (const auto& [name, value] : object_.fields()) {
    if (asked_.count(name) == 0) unexpected.insert(name);
  }
  return unexpected.empty() ? std::nullopt : std::make_optional(*unexpected.begin());
}

absl::Status ArgReader::Finish() {
  if (const auto name = Unexpected()) {
    Fail(absl::InvalidArgumentError(absl::StrCat("Parameter '", FullName(*name), "' is unexpected")));
  }
  return status_;
}

absl::Status ArgReader::FinishProperties(absl::string_view driver) {
  if (const auto name = Unexpected()) {
    Fail(absl::InvalidArgumentError(absl::StrCat("Property '", driver, ".", *name, "' not found")));
  }
  return status_;
}

}  // namespace cpr
