#ifndef VMM_OPTIONS_KEY_VALUES_H_
#define VMM_OPTIONS_KEY_VALUES_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/json/json.h"

namespace cpr {

// Parses QEMU's "value,key=value,key=value" into an object of texts, for an ArgReader of kKeyValues. ",," is a comma
// within a value. A first element without "=" is the value of `implied_key`; any other one means key=on, or key=off if
// it is written "nokey". "a.b=c" nests. The last of several equal keys counts.
// kInvalidArgument: an element without a key, or a key that is both a value and an object. Thread-safe.
absl::StatusOr<JsonObject> ParseKeyValues(absl::string_view text, absl::string_view implied_key);

// As above; a text that begins with "{" is JSON instead. `is_json` says which it was.
absl::StatusOr<JsonObject> ParseKeyValuesOrJson(absl::string_view text, absl::string_view implied_key, bool* is_json);

}  // namespace cpr

#endif  // VMM_OPTIONS_KEY_VALUES_H_
