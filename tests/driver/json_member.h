#ifndef TESTS_DRIVER_JSON_MEMBER_H_
#define TESTS_DRIVER_JSON_MEMBER_H_

#include <cstdint>
#include <string>

#include "vmm/json/json.h"

// What an answer of QMP holds, for callers that take what is missing for empty.

namespace cpr {

// The member `name` of an object; null if there is none.
inline const JsonValue* JsonMember(const JsonValue& value, const std::string& name) {
  const auto& fields = value.struct_value().fields();
  const auto found = fields.find(name);
  return found == fields.end() ? nullptr : &found->second;
}

inline std::string JsonMemberText(const JsonValue& value, const std::string& name) {
  const JsonValue* member = JsonMember(value, name);
  return member == nullptr ? "" : member->string_value();
}

inline int64_t JsonMemberInteger(const JsonValue& value, const std::string& name) {
  const JsonValue* member = JsonMember(value, name);
  return member == nullptr ? 0 : static_cast<int64_t>(member->number_value());
}

}  // namespace cpr

#endif  // TESTS_DRIVER_JSON_MEMBER_H_
