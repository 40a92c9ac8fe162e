#include "tests/driver/vmm.h"

#include <fcntl.h>
#include <sys/socket.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "tests/driver/json_member.h"

namespace cpr {
namespace {

constexpr uint64_t kMaxLogBytes = 1 << 20;
constexpr absl::Duration kLookInterval = absl::Microseconds(300);
constexpr absl::Duration kStartTimeout = absl::Seconds(20);

std::string ReadLog(const std::string& path) {
  const absl::StatusOr<UniqueFd> file = OpenFile(path, O_RDONLY);
  if (!file.ok()) return "";
  return ReadToEnd(file->get(), kMaxLogBytes).value_or("");
}

JsonValue SocketAddress(const std::string& uri) {
  if (absl::StartsWith(uri, "tcp:")) {
    const std::vector<std::string> parts = absl::StrSplit(uri, ':');
    return JsonMembers({{"transport", JsonText("socket")},
                        {"type", JsonText("inet")},
                        {"host", JsonText(parts[1])},
                        {"port", JsonText(parts[2])}});
  }
  return JsonMembers({{"transport", JsonText("socket")},
                      {"type", JsonText("unix")},
                      {"path", JsonText(absl::StripPrefix(uri, "unix:"))}});
}

JsonValue ChannelOf(absl::string_view type, const std::string& uri) {
  return JsonMembers({{"channel-type", JsonText(type)}, {"addr", SocketAddress(uri)}});
}

}  // namespace

pid_t PeerPid(int fd) {
  ucred credentials = {};
  socklen_t size_bytes = sizeof(credentials);
  ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size_bytes);
  return credentials.pid;
}

absl::StatusOr<Vmm> Vmm::Start(const std::vector<std::string>& command, const std::string& qmp_path,
                               const std::string& log_path) {
  CPR_ASSIGN_OR_RETURN(VmmProcess process, VmmProcess::Start(command, log_path));
  const absl::Time deadline = absl::Now() + kStartTimeout;
  while (absl::Now() < deadline) {
    absl::StatusOr<QmpClient> qmp = QmpClient::Connect(qmp_path, kLookInterval);
    if (qmp.ok()) return Vmm(std::move(process), *std::move(qmp), qmp_path, log_path);
    if (!process.Alive()) {
      return absl::AbortedError(absl::StrCat(command[0], " ended with exit code ",
                                             process.Wait(absl::Seconds(1)).value_or(-1), ":\n", ReadLog(log_path)));
    }
  }
  return absl::DeadlineExceededError(
      absl::StrCat(command[0], " does not answer at ", qmp_path, ":\n", ReadLog(log_path)));
}

std::string Vmm::Log() const { return ReadLog(log_path_); }

absl::Status Vmm::SetMode(Mode mode) {
  return qmp_.Execute("migrate-set-parameters", JsonMembers({{"mode", JsonText(ModeName(mode))}})).status();
}

absl::Status Vmm::SetExecCommand(const std::vector<std::string>& words) {
  return qmp_.Execute("migrate-set-parameters", JsonMembers({{"cpr-exec-command", JsonTexts(words)}})).status();
}

absl::Status Vmm::SetIgnoreShared() {
  JsonValue capability = JsonMembers({{"capability", JsonText("x-ignore-shared")}, {"state", JsonBool(true)}});
  return qmp_.Execute("migrate-set-capabilities", JsonMembers({{"capabilities", JsonList({capability})}})).status();
}

absl::Status Vmm::Migrate(const std::string& uri) {
  return qmp_.Execute("migrate", JsonMembers({{"uri", JsonText(uri)}})).status();
}

absl::Status Vmm::MigrateChannels(const std::string& main_uri, const std::string& cpr_path) {
  const JsonValue channels = JsonList({ChannelOf("main", main_uri), ChannelOf("cpr", absl::StrCat("unix:", cpr_path))});
  return qmp_.Execute("migrate", JsonMembers({{"channels", channels}})).status();
}

absl::Status Vmm::AwaitExec(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (absl::Now() < deadline) {
    const absl::StatusOr<JsonValue> answer = qmp_.Execute("query-migrate");
    if (!answer.ok()) return Reconnect(deadline - absl::Now());  // the old program has hung up
    const std::string status = JsonMemberText(*answer, "status");
    if (status == "failed" || status == "cancelled") {
      return absl::AbortedError(absl::StrCat("migration ", status, ": ", JsonMemberText(*answer, "error-desc")));
    }
    absl::SleepFor(kLookInterval);
  }
  return absl::DeadlineExceededError("the program does not exec");
}

absl::Status Vmm::Reconnect(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  absl::StatusOr<QmpClient> qmp = QmpClient::Connect(qmp_path_, timeout);
  // Who comes while one program gives way to the next may be hung up on.
  while (!qmp.ok() && absl::Now() < deadline) qmp = QmpClient::Connect(qmp_path_, deadline - absl::Now());
  CPR_RETURN_IF_ERROR(qmp.status());
  qmp_ = *std::move(qmp);
  const pid_t pid = PeerPid(qmp_.fd());
  if (pid == process_.pid()) return absl::OkStatus();
  CPR_ASSIGN_OR_RETURN(process_, VmmProcess::Adopt(pid));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Vmm::RunState() {
  CPR_ASSIGN_OR_RETURN(const JsonValue answer, qmp_.Execute("query-status"));
  return JsonMemberText(answer, "status");
}

absl::StatusOr<std::array<int64_t, kPhaseCount>> Vmm::PhaseTimes() {
  CPR_ASSIGN_OR_RETURN(const JsonValue answer, qmp_.Execute("query-migrate"));
  std::array<int64_t, kPhaseCount> times = {};
  const JsonValue* phases = JsonMember(answer, "x-phases");
  for (int i = 0; phases != nullptr && i < kPhaseCount; ++i) {
    times[i] = JsonMemberInteger(*phases, std::string(PhaseName(static_cast<Phase>(i))));
  }
  return times;
}

absl::StatusOr<int> Vmm::Quit(absl::Duration timeout) {
  const absl::Status asked = qmp_.Execute("quit").status();
  if (!asked.ok() && !absl::IsUnavailable(asked)) return asked;  // it may hang up before it answers
  return process_.Wait(timeout);
}

}  // namespace cpr
