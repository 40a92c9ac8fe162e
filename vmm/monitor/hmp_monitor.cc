#include "vmm/monitor/hmp_monitor.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "vmm/options/version.h"

namespace cpr {
namespace {

// Nobody types so much.
constexpr size_t kMaxLineBytes = 64 << 10;

}  // namespace

void HmpMonitor::Start() {
  Print(absl::StrCat("cpr-vmm ", kVersion, " monitor - type 'help' for more information\n"));
  Prompt();
}

void HmpMonitor::Prompt() {
  if (ended_) return;
  if (prompter_) {
    prompter_();
  } else {
    Print(kHmpPrompt);
  }
}

void HmpMonitor::PrintError(const absl::Status& status) {
  if (!status.ok()) Print(absl::StrCat("Error: ", status.message(), "\n"));
}

void HmpMonitor::Receive(absl::string_view bytes) {
  absl::StrAppend(&input_, bytes);
  RunLines();
}

void HmpMonitor::RunLines() {
  if (running_) return;
  running_ = true;
  while (!waiting_ && !ended_) {
    const size_t end = input_.find('\n');
    if (end == std::string::npos) break;
    const std::string line(absl::StripAsciiWhitespace(input_.substr(0, end)));
    input_.erase(0, end + 1);
    if (!line.empty()) RunHmpLine(*this, line);
    if (!waiting_) Prompt();
  }
  if (input_.size() > kMaxLineBytes && input_.find('\n') == std::string::npos) {
    input_.clear();
    Print("command line too long\n");
    Prompt();
  }
  running_ = false;
}

void HmpMonitor::WaitForMigration() {
  const MigrationInfo info = target_.migration_info();
  if (!IsFinal(info.status)) {
    waiting_ = true;
  } else if (info.status == MigrationStatus::kFailed) {
    PrintError(absl::UnknownError(info.error_desc));
  }
}

void HmpMonitor::OnEvent(const MonitorEvent& event) {
  if (!waiting_ || event.kind != MonitorEvent::Kind::kMigration || !IsFinal(event.status)) return;
  waiting_ = false;
  if (event.status == MigrationStatus::kFailed) PrintError(absl::UnknownError(target_.migration_info().error_desc));
  Prompt();
  RunLines();
}

}  // namespace cpr
