#ifndef VMM_MONITOR_HMP_MONITOR_H_
#define VMM_MONITOR_HMP_MONITOR_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/monitor/monitor.h"
#include "vmm/monitor/target.h"

namespace cpr {

inline constexpr char kHmpPrompt[] = "(cpr-vmm) ";

// QEMU's human monitor: lines in, text and a prompt out. While a `migrate` without -d is under way there is no prompt,
// and lines that come meanwhile wait. `target` is lent and must outlive the monitor.
class HmpMonitor : public Monitor {
 public:
  // `prompter`, if given, is called instead of writing the prompt: a line editor shows its own.
  HmpMonitor(MonitorTarget* target, MonitorSink sink, std::function<void()> prompter = nullptr)
      : target_(*target), sink_(std::move(sink)), prompter_(std::move(prompter)) {}

  void Start() override;
  void Receive(absl::string_view bytes) override;
  void OnEvent(const MonitorEvent& event) override;

  // For the commands (hmp_commands.cc).
  MonitorTarget& target() { return target_; }
  void Print(absl::string_view text) { sink_(text); }
  // "Error: ..." if `status` is one.
  void PrintError(const absl::Status& status);
  // No prompt until the migration that has just begun has ended, and its error, if any, after that.
  void WaitForMigration();
  void EndWithoutPrompt() { ended_ = true; }

 private:
  void RunLines();
  void Prompt();

  MonitorTarget& target_;
  const MonitorSink sink_;
  const std::function<void()> prompter_;
  std::string input_;
  bool waiting_ = false;
  bool running_ = false;  // within RunLines
  bool ended_ = false;
};

// Runs one line, which is not empty.
void RunHmpLine(HmpMonitor& monitor, absl::string_view line);

// What "info WHAT" prints; false if there is no such thing.
bool RunHmpInfo(HmpMonitor& monitor, absl::string_view what);
// One line of help for each "info".
std::string HmpInfoHelp();

}  // namespace cpr

#endif  // VMM_MONITOR_HMP_MONITOR_H_
