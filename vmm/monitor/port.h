#ifndef VMM_MONITOR_PORT_H_
#define VMM_MONITOR_PORT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/monitor/event.h"
#include "vmm/monitor/monitor.h"
#include "vmm/monitor/target.h"
#include "vmm/options/options.h"

// What binds a monitor to the outside: a unix socket, or stdin and stdout. Used by MonitorServer alone.

namespace cpr {

class MonitorPort {
 public:
  virtual ~MonitorPort() = default;
  virtual void OnEvent(const MonitorEvent& event) = 0;
  // Nothing is read from here to Resume, and a terminal is as the user had it.
  virtual void Suspend() = 0;
  virtual void Resume() = 0;
  virtual bool connected() const = 0;
  // The sockets that this is at; lent.
  virtual std::vector<int> fds() const = 0;
};

// One client at a time; the next one is accepted when it has left.
absl::StatusOr<std::unique_ptr<MonitorPort>> CreateSocketPort(const MonitorOptions& options, MonitorTarget* target,
                                                              EventLoop* loop);
// `in` and `out` are lent.
absl::StatusOr<std::unique_ptr<MonitorPort>> CreateStdioPort(MonitorOptions::Protocol protocol, MonitorTarget* target,
                                                             EventLoop* loop, int in, int out);

}  // namespace cpr

#endif  // VMM_MONITOR_PORT_H_
