#ifndef TOOLS_CPRCTL_INSPECT_H_
#define TOOLS_CPRCTL_INSPECT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace cpr {

// Writes to `*text`, for people, what `bytes` are: header, ownership, sections and their checksums; of a damaged state
// as much as can still be told. The status is that of ContainerReader::Parse(), the judgement of the whole.
absl::Status InspectState(absl::string_view bytes, std::string* text);

}  // namespace cpr

#endif  // TOOLS_CPRCTL_INSPECT_H_
