// The state that is written once for each release, and the words in which its meaning is kept.
#ifndef TESTS_GOLDEN_GOLDEN_STATE_H_
#define TESTS_GOLDEN_GOLDEN_STATE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr {

// Every feature of the format, the same each time: both stages, optional, empty and raw payloads, a protobuf message,
// the longest name and the largest numbers.
absl::StatusOr<std::string> WriteGoldenState();

// All that a reader learns of `state`, as text: what golden files are compared by, since protobuf may encode the same
// message differently one day.
absl::StatusOr<std::string> DumpState(absl::string_view state);

}  // namespace cpr

#endif  // TESTS_GOLDEN_GOLDEN_STATE_H_
