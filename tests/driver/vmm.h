#ifndef TESTS_DRIVER_VMM_H_
#define TESTS_DRIVER_VMM_H_

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "libcpr/modes/phase.h"
#include "vmm/client/qmp_client.h"
#include "vmm/client/vmm_process.h"

namespace cpr {

// One cpr-vmm with its QMP monitor: what a user's script would do with it. Nothing here looks inside.
// Thread-compatible.
class Vmm {
 public:
  // Starts `command` and connects to the QMP socket that it opens at `qmp_path`. When it ends instead, the error says
  // what it wrote to `log_path`.
  static absl::StatusOr<Vmm> Start(const std::vector<std::string>& command, const std::string& qmp_path,
                                   const std::string& log_path);

  QmpClient& qmp() { return qmp_; }
  VmmProcess& process() { return process_; }
  const std::string& qmp_path() const { return qmp_path_; }
  // All that it wrote to stdout and stderr.
  std::string Log() const;

  // migrate-set-parameters {mode}, and what else the mode wants.
  absl::Status SetMode(Mode mode);
  absl::Status SetExecCommand(const std::vector<std::string>& words);
  absl::Status SetIgnoreShared();
  absl::Status Migrate(const std::string& uri);
  // migrate with a main channel, a `uri` of unix: or tcp:, and the cpr channel at `cpr_path`.
  absl::Status MigrateChannels(const std::string& main_uri, const std::string& cpr_path);

  // After `migrate` by cpr-exec: waits until the program that answers is another one, and connects to that. kAborted
  // with error-desc when the handover failed and this program goes on.
  absl::Status AwaitExec(absl::Duration timeout = absl::Seconds(20));
  // Connects anew to whatever listens at qmp_path. The process is then the one behind that socket.
  absl::Status Reconnect(absl::Duration timeout = absl::Seconds(10));
  // query-status's answer, and query-migrate's six phases in nanoseconds.
  absl::StatusOr<std::string> RunState();
  absl::StatusOr<std::array<int64_t, kPhaseCount>> PhaseTimes();
  // quit, and waits for the end of the process: exit code.
  absl::StatusOr<int> Quit(absl::Duration timeout = absl::Seconds(10));

 private:
  Vmm(VmmProcess process, QmpClient qmp, std::string qmp_path, std::string log_path)
      : process_(std::move(process)),
        qmp_(std::move(qmp)),
        qmp_path_(std::move(qmp_path)),
        log_path_(std::move(log_path)) {}

  VmmProcess process_;
  QmpClient qmp_;
  std::string qmp_path_;
  std::string log_path_;
};

// The process that listens at the other end of the unix socket `fd` (lent), from the kernel.
pid_t PeerPid(int fd);

}  // namespace cpr

#endif  // TESTS_DRIVER_VMM_H_
