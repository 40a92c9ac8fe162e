#include "vmm/monitor/json_splitter.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "vmm/json/json.h"

namespace cpr {

void JsonSplitter::Feed(absl::string_view bytes) { input_.append(bytes.data(), bytes.size()); }

std::string JsonSplitter::Cut(size_t size_bytes) {
  std::string text = input_.substr(0, size_bytes);
  input_.erase(0, size_bytes);
  scanned_ = 0;
  return text;
}

bool JsonSplitter::Step() {
  const char c = input_[scanned_++];
  if (quote_ != 0) {
    if (!escaped_ && c == quote_) quote_ = 0;
    escaped_ = !escaped_ && c == '\\';
    return false;
  }
  if (c == '"' || c == '\'') {
    quote_ = c;
  } else if (c == '{' || c == '[') {
    if (depth_ == 0 && scanned_ > 1) {  // a bare word ends here
      --scanned_;
      return true;
    }
    ++depth_;
  } else if (c == '}' || c == ']') {
    if (depth_ > 0) --depth_;
    return depth_ == 0;
  } else if (depth_ == 0 && absl::ascii_isspace(c)) {
    return true;
  }
  return false;
}

std::optional<absl::StatusOr<std::string>> JsonSplitter::Next() {
  if (skipping_) {
    const size_t end = input_.find('\n');
    skipping_ = end == std::string::npos;
    input_.erase(0, skipping_ ? input_.size() : end + 1);
  }
  if (scanned_ == 0) {
    size_t space = 0;
    while (space < input_.size() && absl::ascii_isspace(input_[space])) ++space;
    input_.erase(0, space);
  }
  while (scanned_ < input_.size()) {
    if (scanned_ >= kMaxJsonBytes) {
      Cut(scanned_);
      depth_ = 0;
      quote_ = 0;
      escaped_ = false;
      skipping_ = true;
      return absl::InvalidArgumentError("JSON token size limit exceeded");
    }
    if (Step()) return Cut(scanned_);
  }
  return std::nullopt;
}

}  // namespace cpr
