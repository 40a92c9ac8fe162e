#ifndef VMM_CLIENT_QMP_CLIENT_H_
#define VMM_CLIENT_QMP_CLIENT_H_

#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "libcpr/base/unique_fd.h"
#include "vmm/json/json.h"

namespace cpr {

// A blocking QMP client, as the demo, the tests and the benchmarks use it. Speaks to any QMP server (QEMU, too).
// Thread-compatible.
class QmpClient {
 public:
  // Connects to the unix socket `path`, waiting for it to appear, and negotiates. kDeadlineExceeded after `timeout`.
  static absl::StatusOr<QmpClient> Connect(const std::string& path, absl::Duration timeout = absl::Seconds(10));

  // Sends a command and returns what "return" holds. An "error" becomes kAborted with its desc; kUnavailable: the
  // server has hung up. Events that arrive meanwhile are kept.
  absl::StatusOr<JsonValue> Execute(absl::string_view command, const JsonValue& arguments = JsonMembers({}));
  // The same with a request in words: {"execute": ...}.
  absl::StatusOr<JsonValue> ExecuteText(absl::string_view request);

  // Asks query-status, after each event and from time to time, until it says `status` ("running", "postmigrate").
  absl::Status AwaitStatus(absl::string_view status, absl::Duration timeout = absl::Seconds(10));
  // Asks query-migrate likewise until the migration has ended. kAborted with error-desc unless it is "completed".
  absl::Status AwaitMigration(absl::Duration timeout = absl::Seconds(30));

  // Waits for the event `name`, also among those that came before, and takes it.
  absl::StatusOr<JsonValue> AwaitEvent(absl::string_view name, absl::Duration timeout = absl::Seconds(10));

  int fd() const { return socket_.get(); }

 private:
  explicit QmpClient(UniqueFd socket) : socket_(std::move(socket)) {}
  // Waits for an event that says that something has come to its end, or for `until`.
  absl::Status AwaitChange(absl::Time until);
  absl::StatusOr<JsonValue> ReadObject(absl::Time deadline);
  absl::StatusOr<std::string> ReadLine(absl::Time deadline);

  UniqueFd socket_;
  std::string buffer_;
  std::deque<JsonValue> events_;
};

}  // namespace cpr

#endif  // VMM_CLIENT_QMP_CLIENT_H_
