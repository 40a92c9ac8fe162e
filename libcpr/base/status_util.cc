#include "libcpr/base/status_util.h"

#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace cpr {
namespace {
constexpr char kErrnoPayload[] = "libcpr/errno";
}  // namespace

absl::Status ErrnoStatus(int err, absl::string_view what) {
  // absl::ErrnoToStatus fills a table at its first use, in a library that ThreadSanitizer does not see: two threads
  // that fail at once would be a report.
  char buffer[128];
  const char* text = ::strerror_r(err, buffer, sizeof(buffer));  // glibc's, which may answer with a string of its own
  absl::Status status(absl::ErrnoToStatusCode(err), absl::StrCat(what, ": ", text));
  status.SetPayload(kErrnoPayload, absl::Cord(absl::StrCat(err)));
  return status;
}

int StatusErrno(const absl::Status& status) {
  const auto payload = status.GetPayload(kErrnoPayload);
  int err = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &err)) return 0;
  return err;
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&annotated](absl::string_view url, const absl::Cord& value) { annotated.SetPayload(url, value); });
  return annotated;
}

}  // namespace cpr
