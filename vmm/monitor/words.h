#ifndef VMM_MONITOR_WORDS_H_
#define VMM_MONITOR_WORDS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr {

// Splits `line` into words as a shell does: at blanks, with '...', "..." and \ to keep them together. Nothing is
// expanded. kInvalidArgument: a quote without its end. Thread-safe.
absl::StatusOr<std::vector<std::string>> SplitWords(absl::string_view line);

}  // namespace cpr

#endif  // VMM_MONITOR_WORDS_H_
