#include "vmm/client/qmp_client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/preserve/stream_socket.h"

namespace cpr {
namespace {

constexpr absl::Duration kCommandTimeout = absl::Seconds(60);
constexpr absl::Duration kConnectInterval = absl::Milliseconds(1);
// An event tells of most changes at once; asking again is for the others. Asking more often would take CPU time from
// the guest and from the handover.
constexpr absl::Duration kAskInterval = absl::Milliseconds(20);

const JsonValue* Member(const JsonValue& value, const std::string& name) {
  const auto& fields = value.struct_value().fields();
  const auto found = fields.find(name);
  return found == fields.end() ? nullptr : &found->second;
}

std::string TextMember(const JsonValue& value, const std::string& name) {
  const JsonValue* member = Member(value, name);
  return member == nullptr ? "" : member->string_value();
}

// A migration that goes on: nothing to ask about yet.
bool OnTheWay(const JsonValue& event) {
  if (TextMember(event, "event") != "MIGRATION") return false;
  const JsonValue* data = Member(event, "data");
  const std::string status = data == nullptr ? "" : TextMember(*data, "status");
  return status != "completed" && status != "failed" && status != "cancelled";
}

}  // namespace

absl::StatusOr<QmpClient> QmpClient::Connect(const std::string& path, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  absl::StatusOr<UniqueFd> socket = ConnectUnixStream(path);
  while (!socket.ok() && absl::Now() < deadline) {
    absl::SleepFor(kConnectInterval);
    socket = ConnectUnixStream(path);
  }
  if (!socket.ok()) return Annotate(socket.status(), absl::StrCat("QMP at ", path));
  CPR_RETURN_IF_ERROR(SetNonblocking(socket->get(), true));
  QmpClient client(*std::move(socket));
  CPR_ASSIGN_OR_RETURN(const JsonValue greeting, client.ReadObject(deadline));
  if (Member(greeting, "QMP") == nullptr) return absl::DataLossError(absl::StrCat(path, ": no QMP greeting"));
  CPR_RETURN_IF_ERROR(client.Execute("qmp_capabilities").status());
  return client;
}

absl::StatusOr<JsonValue> QmpClient::Execute(absl::string_view command, const JsonValue& arguments) {
  return ExecuteText(PrintJson(JsonMembers({{"execute", JsonText(command)}, {"arguments", arguments}})));
}

absl::StatusOr<JsonValue> QmpClient::ExecuteText(absl::string_view request) {
  const std::string line = absl::StrCat(request, "\n");
  if (::send(socket_.get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return absl::UnavailableError("QMP: the server has hung up");
  }
  const absl::Time deadline = absl::Now() + kCommandTimeout;
  for (;;) {
    CPR_ASSIGN_OR_RETURN(const JsonValue answer, ReadObject(deadline));
    if (const JsonValue* result = Member(answer, "return")) return *result;
    if (const JsonValue* error = Member(answer, "error")) return absl::AbortedError(TextMember(*error, "desc"));
    events_.push_back(answer);
  }
}

absl::Status QmpClient::AwaitStatus(absl::string_view status, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  std::string now;
  while (absl::Now() < deadline) {
    CPR_ASSIGN_OR_RETURN(const JsonValue answer, Execute("query-status"));
    now = TextMember(answer, "status");
    if (now == status) return absl::OkStatus();
    CPR_RETURN_IF_ERROR(AwaitChange(std::min(deadline, absl::Now() + kAskInterval)));
  }
  return absl::DeadlineExceededError(absl::StrCat("query-status says \"", now, "\", not \"", status, "\""));
}

absl::Status QmpClient::AwaitMigration(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (absl::Now() < deadline) {
    CPR_ASSIGN_OR_RETURN(const JsonValue answer, Execute("query-migrate"));
    const std::string status = TextMember(answer, "status");
    if (status == "completed") return absl::OkStatus();
    if (status == "failed" || status == "cancelled") {
      return absl::AbortedError(absl::StrCat("migration ", status, ": ", TextMember(answer, "error-desc")));
    }
    CPR_RETURN_IF_ERROR(AwaitChange(std::min(deadline, absl::Now() + kAskInterval)));
  }
  return absl::DeadlineExceededError("the migration does not end");
}

absl::Status QmpClient::AwaitChange(absl::Time until) {
  for (;;) {
    absl::StatusOr<JsonValue> event = ReadObject(until);
    if (absl::IsDeadlineExceeded(event.status())) return absl::OkStatus();
    CPR_RETURN_IF_ERROR(event.status());
    const bool on_the_way = OnTheWay(*event);
    events_.push_back(*std::move(event));
    if (!on_the_way) return absl::OkStatus();
  }
}

absl::StatusOr<JsonValue> QmpClient::AwaitEvent(absl::string_view name, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    for (auto it = events_.begin(); it != events_.end(); ++it) {
      if (TextMember(*it, "event") != name) continue;
      JsonValue event = std::move(*it);
      events_.erase(it);
      return event;
    }
    CPR_ASSIGN_OR_RETURN(JsonValue event, ReadObject(deadline));
    events_.push_back(std::move(event));
  }
}

absl::StatusOr<JsonValue> QmpClient::ReadObject(absl::Time deadline) {
  CPR_ASSIGN_OR_RETURN(const std::string line, ReadLine(deadline));
  return ParseJson(line);
}

absl::StatusOr<std::string> QmpClient::ReadLine(absl::Time deadline) {
  for (;;) {
    if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    CPR_RETURN_IF_ERROR(WaitReadable(socket_.get(), deadline));
    char bytes[4096];
    const ssize_t n = ::recv(socket_.get(), bytes, sizeof(bytes), 0);
    if (n == 0) return absl::UnavailableError("QMP: the server has hung up");
    if (n < 0 && errno != EAGAIN && errno != EINTR) return ErrnoStatus(errno, "QMP: recv");
    if (n > 0) buffer_.append(bytes, static_cast<size_t>(n));
  }
}

}  // namespace cpr
