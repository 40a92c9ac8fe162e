#ifndef VMM_JSON_JSON_H_
#define VMM_JSON_JSON_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/struct.pb.h"

// JSON as the command line and QMP use it. Reading is protobuf's; writing is done here, because protobuf writes 10^15
// as "1e+15", which no QMP client takes for an integer. All functions are thread-safe.

namespace cpr {

using JsonValue = google::protobuf::Value;
using JsonObject = google::protobuf::Struct;

// Nothing that QMP carries comes near these; a peer that exceeds them is at fault. protobuf itself ends at a depth of
// 100 messages, three of which make one level of an object.
inline constexpr size_t kMaxJsonBytes = 1 << 20;
inline constexpr int kMaxJsonDepth = 30;

// Parses one JSON value of at most kMaxJsonBytes and kMaxJsonDepth. kInvalidArgument with "JSON parse error, ..."
// when it is none. Numbers become doubles: integers are exact up to 2^53.
absl::StatusOr<JsonValue> ParseJson(absl::string_view text);

// `value` on one line with the separators of QEMU (": " and ", "), an object's members sorted by name. Integers are
// written as integers; bytes that are no UTF-8 become U+FFFD.
std::string PrintJson(const JsonValue& value);

// Values to build answers from.
JsonValue JsonText(absl::string_view text);
JsonValue JsonInteger(int64_t number);
JsonValue JsonBool(bool on);
JsonValue JsonList(std::vector<JsonValue> values);
JsonValue JsonTexts(const std::vector<std::string>& texts);
JsonValue JsonMembers(std::vector<std::pair<absl::string_view, JsonValue>> members);

}  // namespace cpr

#endif  // VMM_JSON_JSON_H_
