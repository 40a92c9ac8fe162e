#include "vmm/monitor/monitor_server.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {

absl::StatusOr<std::unique_ptr<MonitorServer>> MonitorServer::Create(absl::Span<const MonitorOptions> monitors,
                                                                     MonitorTarget* target, EventLoop* loop,
                                                                     int stdin_fd, int stdout_fd) {
  std::unique_ptr<MonitorServer> server(new MonitorServer(monitors));
  for (const MonitorOptions& options : monitors) {
    const bool stdio = options.chardev.kind == ChardevConfig::Kind::kStdio;
    auto port = stdio ? CreateStdioPort(options.protocol, target, loop, stdin_fd, stdout_fd)
                      : CreateSocketPort(options, target, loop);
    if (!port.ok()) return Annotate(port.status(), absl::StrCat("monitor ", stdio ? "stdio" : options.chardev.path));
    server->ports_.push_back(*std::move(port));
  }
  return server;
}

void MonitorServer::Broadcast(const MonitorEvent& event) {
  for (const auto& port : ports_) port->OnEvent(event);
}

void MonitorServer::Suspend() {
  for (const auto& port : ports_) port->Suspend();
}

void MonitorServer::Resume() {
  for (const auto& port : ports_) port->Resume();
}

std::vector<int> MonitorServer::fds() const {
  std::vector<int> all;
  for (const auto& port : ports_) {
    const std::vector<int> fds = port->fds();
    all.insert(all.end(), fds.begin(), fds.end());
  }
  return all;
}

std::vector<ChardevInfo> MonitorServer::Chardevs() const {
  std::vector<ChardevInfo> chardevs;
  for (size_t i = 0; i < ports_.size(); ++i) {
    const ChardevConfig& config = options_[i].chardev;
    std::string filename = "stdio";
    if (config.kind == ChardevConfig::Kind::kSocket) {
      filename = absl::StrCat(ports_[i]->connected() ? "" : "disconnected:", "unix:", config.path,
                              config.server ? ",server=on" : "");
    }
    chardevs.push_back({absl::StrCat("compat_monitor", i), std::move(filename), true});
  }
  return chardevs;
}

}  // namespace cpr
