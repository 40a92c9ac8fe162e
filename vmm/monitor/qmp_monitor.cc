#include "vmm/monitor/qmp_monitor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "vmm/monitor/qmp_json.h"

namespace cpr {
namespace {

// Descriptors that came and were never asked for: more than any client sends ahead.
constexpr size_t kMaxPendingFds = 16;

// QEMU's only error class but GenericError that can occur here is told by kNotFound.
JsonValue ErrorJson(const absl::Status& status) {
  const bool not_found = absl::IsNotFound(status);
  return JsonMembers(
      {{"class", JsonText(not_found ? "CommandNotFound" : "GenericError")}, {"desc", JsonText(status.message())}});
}

absl::Status Refuse(absl::string_view text) { return absl::InvalidArgumentError(text); }

absl::Status CheckMembers(const JsonObject& request) {
  const auto& fields = request.fields();
  for (const auto& [name, value] : fields) {
    if (name == "execute") {
      if (value.kind_case() != JsonValue::kStringValue) return Refuse("QMP input member 'execute' must be a string");
    } else if (name == "arguments") {
      if (value.kind_case() != JsonValue::kStructValue) return Refuse("QMP input member 'arguments' must be an object");
    } else if (name != "id") {
      return Refuse(absl::StrCat("QMP input member '", name, "' is unexpected"));
    }
  }
  if (fields.find("execute") == fields.end()) return Refuse("QMP input lacks member 'execute'");
  return absl::OkStatus();
}

}  // namespace

void QmpMonitor::Send(const JsonValue& value) { sink_(PrintJson(value) + "\r\n"); }

void QmpMonitor::Start() {
  Send(JsonMembers({{"QMP", JsonMembers({{"version", VersionJson()}, {"capabilities", JsonList({})}})}}));
}

void QmpMonitor::Receive(absl::string_view bytes) {
  splitter_.Feed(bytes);
  while (auto request = splitter_.Next()) Answer(*request);
}

void QmpMonitor::ReceiveFd(UniqueFd fd) {
  fds_.push_back(std::move(fd));
  if (fds_.size() > kMaxPendingFds) fds_.pop_front();
}

std::optional<UniqueFd> QmpMonitor::TakeFd() {
  if (fds_.empty()) return std::nullopt;
  UniqueFd fd = std::move(fds_.front());
  fds_.pop_front();
  return fd;
}

absl::StatusOr<JsonValue> QmpMonitor::Execute(const JsonObject& request) {
  CPR_RETURN_IF_ERROR(CheckMembers(request));
  const std::string& name = request.fields().at("execute").string_value();
  if (!negotiated_ && name != "qmp_capabilities") {
    return absl::NotFoundError("Expecting capabilities negotiation with 'qmp_capabilities'");
  }
  if (negotiated_ && name == "qmp_capabilities") {
    return absl::NotFoundError("Capabilities negotiation is already complete, command ignored");
  }
  const QmpCommand* command = FindQmpCommand(name);
  if (command == nullptr) return absl::NotFoundError(absl::StrCat("The command ", name, " has not been found"));
  const auto arguments = request.fields().find("arguments");
  ArgReader args(
      arguments == request.fields().end() ? JsonObject::default_instance() : arguments->second.struct_value(),
      ArgSource::kJson);
  absl::StatusOr<JsonValue> answer = command->run(*this, args);
  // What the target says is no verdict on the command's name.
  if (absl::IsNotFound(answer.status())) return absl::UnknownError(answer.status().message());
  return answer;
}

void QmpMonitor::Answer(const absl::StatusOr<std::string>& request) {
  absl::StatusOr<JsonValue> parsed = request.ok() ? ParseJson(*request) : absl::StatusOr<JsonValue>(request.status());
  if (parsed.ok() && parsed->kind_case() != JsonValue::kStructValue) parsed = Refuse("QMP input must be a JSON object");
  const absl::StatusOr<JsonValue> answer =
      parsed.ok() ? Execute(parsed->struct_value()) : absl::StatusOr<JsonValue>(parsed.status());
  JsonValue reply;
  auto& fields = *reply.mutable_struct_value()->mutable_fields();
  if (answer.ok()) {
    fields["return"] = *answer;
  } else {
    fields["error"] = ErrorJson(answer.status());
  }
  if (parsed.ok()) {
    const auto id = parsed->struct_value().fields().find("id");
    if (id != parsed->struct_value().fields().end()) fields["id"] = id->second;
  }
  Send(reply);
}

void QmpMonitor::OnEvent(const MonitorEvent& event) {
  if (!negotiated_) return;
  if (event.kind == MonitorEvent::Kind::kMigration && !target_.migration_settings().events()) return;
  Send(EventJson(event));
}

}  // namespace cpr
