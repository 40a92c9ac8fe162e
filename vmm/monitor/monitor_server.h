#ifndef VMM_MONITOR_MONITOR_SERVER_H_
#define VMM_MONITOR_MONITOR_SERVER_H_

#include <unistd.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/monitor/event.h"
#include "vmm/monitor/port.h"
#include "vmm/monitor/target.h"
#include "vmm/options/options.h"

namespace cpr {

// All monitors of a VM, at their sockets or on stdio. Must be used on the event loop's thread. The process must ignore
// SIGPIPE: stdout may be a pipe.
//
//   CPR_ASSIGN_OR_RETURN(auto monitors, MonitorServer::Create(options.monitors, &machine, &loop));
//   machine.SetEventSink([&](const MonitorEvent& event) { monitors->Broadcast(event); });
class MonitorServer {
 public:
  // Opens each monitor. Sockets are made with mode 0600, a stale one is replaced, and they serve one client of our own
  // user (or root) after the other; with wait=on this waits for the first. A human monitor on a terminal has its lines
  // edited. `target` and `loop` must outlive the server. Errors name the socket.
  static absl::StatusOr<std::unique_ptr<MonitorServer>> Create(absl::Span<const MonitorOptions> monitors,
                                                               MonitorTarget* target, EventLoop* loop,
                                                               int stdin_fd = STDIN_FILENO,
                                                               int stdout_fd = STDOUT_FILENO);

  // Tells every client.
  void Broadcast(const MonitorEvent& event);

  // Before an execve, so that the next program finds the terminal as the user had it and no request half-read; Resume
  // if it did not come to pass. Clients stay connected meanwhile.
  void Suspend();
  void Resume();

  // Every monitor's sockets, listening and connected; lent. The keeper of a cpr-exec must not hold them: clients would
  // not see that this program has gone, and the next one could not listen.
  std::vector<int> fds() const;

  // For query-chardev, with QEMU's labels: "compat_monitor0".
  std::vector<ChardevInfo> Chardevs() const;

 private:
  explicit MonitorServer(absl::Span<const MonitorOptions> options) : options_(options.begin(), options.end()) {}

  const std::vector<MonitorOptions> options_;
  std::vector<std::unique_ptr<MonitorPort>> ports_;  // by the index of options_
};

}  // namespace cpr

#endif  // VMM_MONITOR_MONITOR_SERVER_H_
