#ifndef VMM_MONITOR_JSON_SPLITTER_H_
#define VMM_MONITOR_JSON_SPLITTER_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr {

// Finds where one JSON value ends and the next begins in a stream of bytes. It does not parse: what it hands out may be
// nonsense, which the parser will say. Thread-compatible.
class JsonSplitter {
 public:
  void Feed(absl::string_view bytes);
  // The next complete value, nullopt if there is none yet. kInvalidArgument: it is longer than kMaxJsonBytes; what
  // follows up to the end of the line is skipped.
  std::optional<absl::StatusOr<std::string>> Next();

 private:
  // Consumes input_[scanned_]; true if a value ends with or before it.
  bool Step();
  std::string Cut(size_t size_bytes);

  std::string input_;
  size_t scanned_ = 0;  // of input_, which begins with a value or with space
  int depth_ = 0;
  char quote_ = 0;  // within a string: what ends it
  bool escaped_ = false;
  bool skipping_ = false;
};

}  // namespace cpr

#endif  // VMM_MONITOR_JSON_SPLITTER_H_
