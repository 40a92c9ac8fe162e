#ifndef VMM_MONITOR_MONITOR_H_
#define VMM_MONITOR_MONITOR_H_

#include <functional>

#include "absl/strings/string_view.h"
#include "libcpr/base/unique_fd.h"
#include "vmm/monitor/event.h"

namespace cpr {

// Takes what a monitor has to say. Called from within the monitor's methods.
using MonitorSink = std::function<void(absl::string_view bytes)>;

// One conversation with one user, without a transport: bytes go in by Receive and come out by the sink. Must be used on
// the VMM's event loop; the sink may not call back.
class Monitor {
 public:
  virtual ~Monitor() = default;

  // Greets. To be called once, before anything else.
  virtual void Start() = 0;
  // Takes bytes as they come, in pieces of any size.
  virtual void Receive(absl::string_view bytes) = 0;
  // Takes a descriptor that came along with the next bytes. Monitors that have no use for it close it.
  virtual void ReceiveFd(UniqueFd) {}
  virtual void OnEvent(const MonitorEvent& event) = 0;
};

}  // namespace cpr

#endif  // VMM_MONITOR_MONITOR_H_
