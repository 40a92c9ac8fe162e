#include "vmm/machine/intx_lines.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <utility>

#include "libcpr/base/status_macros.h"

namespace cpr {

absl::Status IntxLines::Add(const Line& line) {
  {
    MutexLock lock(&mutex_);
    lines_[line.trigger] = {.line = line};
  }
  if (!set_line_) return absl::OkStatus();
  // By edges: what comes while the line is closed stays in the eventfd, and wakes nobody again.
  return loop_->Watch(line.trigger, EPOLLIN | EPOLLET,
                      [this, trigger = line.trigger](uint32_t) { TakeTrigger(trigger); });
}

void IntxLines::Remove(const Line& line) {
  Close(line).IgnoreError();  // KVM had it
  if (set_line_) loop_->Unwatch(line.trigger);
  MutexLock lock(&mutex_);
  lines_.erase(line.trigger);
}

absl::Status IntxLines::Open(const Line& line) {
  if (SetOpen(line, true)) return absl::OkStatus();
  if (!set_line_) return Listen(line);
  TakeTrigger(line.trigger);
  return absl::OkStatus();
}

// KVM dropped an assertion with the irqfd: the device is looked at again, unless it has signalled already, which would
// make it two interrupts. A handler that runs gets no second one: KVM lowers the line at its EOI before it looks at the
// pin.
absl::Status IntxLines::Listen(const Line& line) {
  pollfd entry = {.fd = line.trigger, .events = POLLIN, .revents = 0};
  const bool signalled = ::poll(&entry, 1, 0) == 1;
  CPR_RETURN_IF_ERROR(vm_->AssignIrqfd(line.trigger, line.gsi, line.resample));
  if (!signalled) ::eventfd_write(line.resample, 1);
  return absl::OkStatus();
}

absl::Status IntxLines::Close(const Line& line) {
  if (!SetOpen(line, false)) return absl::OkStatus();
  if (!set_line_) return vm_->DeassignIrqfd(line.trigger, line.gsi);
  set_line_(line.gsi, false);
  Eoi(line.gsi);  // others at the same pin may have asserted it, too
  return absl::OkStatus();
}

absl::Status IntxLines::Hold(const Line& line) {
  if (!SetOpen(line, false) || set_line_) return absl::OkStatus();
  return vm_->DeassignIrqfd(line.trigger, line.gsi);
}

// As it was before.
bool IntxLines::SetOpen(const Line& line, bool open) {
  MutexLock lock(&mutex_);
  return std::exchange(lines_[line.trigger].open, open);
}

void IntxLines::TakeTrigger(int trigger) {
  unsigned gsi = 0;
  {
    MutexLock lock(&mutex_);
    const auto found = lines_.find(trigger);
    eventfd_t count = 0;
    if (found == lines_.end() || !found->second.open || ::eventfd_read(trigger, &count) != 0) return;
    gsi = found->second.line.gsi;
  }
  set_line_(gsi, true);
}

// Others at the same pin may still want attention: all are asked.
void IntxLines::Eoi(unsigned gsi) {
  MutexLock lock(&mutex_);
  bool lowered = false;
  for (const auto& [trigger, state] : lines_) {
    if (!state.open || state.line.gsi != gsi) continue;
    if (!std::exchange(lowered, true)) set_line_(gsi, false);
    ::eventfd_write(state.line.resample, 1);
  }
}

}  // namespace cpr
