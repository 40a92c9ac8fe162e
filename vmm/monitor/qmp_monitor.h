#ifndef VMM_MONITOR_QMP_MONITOR_H_
#define VMM_MONITOR_QMP_MONITOR_H_

#include <deque>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "vmm/json/arg_reader.h"
#include "vmm/json/json.h"
#include "vmm/monitor/json_splitter.h"
#include "vmm/monitor/monitor.h"
#include "vmm/monitor/target.h"

namespace cpr {

// QEMU's machine protocol: greeting, capabilities negotiation, one JSON object a request and an answer, events.
// `target` is lent and must outlive the monitor.
class QmpMonitor : public Monitor {
 public:
  QmpMonitor(MonitorTarget* target, MonitorSink sink) : target_(*target), sink_(std::move(sink)) {}

  void Start() override;
  void Receive(absl::string_view bytes) override;
  void ReceiveFd(UniqueFd fd) override;
  void OnEvent(const MonitorEvent& event) override;

  // For the commands (qmp_commands.cc).
  MonitorTarget& target() { return target_; }
  void set_negotiated() { negotiated_ = true; }
  // The descriptor that came first and has not been asked for.
  std::optional<UniqueFd> TakeFd();

 private:
  void Answer(const absl::StatusOr<std::string>& request);
  absl::StatusOr<JsonValue> Execute(const JsonObject& request);
  void Send(const JsonValue& value);

  MonitorTarget& target_;
  const MonitorSink sink_;
  JsonSplitter splitter_;
  bool negotiated_ = false;
  std::deque<UniqueFd> fds_;
};

// A command of QMP. `run` reads its arguments, calls args.Finish() before it does anything, and returns the answer.
struct QmpCommand {
  absl::string_view name;
  absl::StatusOr<JsonValue> (*run)(QmpMonitor& monitor, ArgReader& args);
};

// nullptr: there is no such command.
const QmpCommand* FindQmpCommand(absl::string_view name);

}  // namespace cpr

#endif  // VMM_MONITOR_QMP_MONITOR_H_
