#ifndef VMM_APP_EVENT_OUTBOX_H_
#define VMM_APP_EVENT_OUTBOX_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/monitor/event.h"

namespace cpr {

// Events on their way to the monitors, always in their order. Those of a handover are held back for a moment: writing
// them, and clients that wake up to read them, would take CPU time from a guest that stands still or has just arrived.
// Lives and is used on the loop's thread.
class EventOutbox {
 public:
  // So late is an event at most.
  static constexpr absl::Duration kLongestDelay = absl::Milliseconds(20);
  // A guest that has just arrived finds nothing in caches and page tables; for so long it may have the CPUs.
  static constexpr absl::Duration kArrivalTime = absl::Milliseconds(3);

  // `send` gets each event once. `loop` must outlive the outbox.
  EventOutbox(EventLoop* loop, std::function<void(const MonitorEvent&)> send)
      : loop_(loop), self_(std::make_shared<EventOutbox*>(this)), send_(std::move(send)) {}

  // Sends `event` and all that are held, or, if `later`, holds it.
  void Add(MonitorEvent event, bool later);
  // Sends what is held, unless a guest arrives.
  void SendDue();
  // Sends what is held.
  void SendAll();
  // For kArrivalTime everything is held.
  void LetGuestArrive();

 private:
  void After(absl::Duration delay, void (EventOutbox::*call)());
  void EndArrival();

  EventLoop* const loop_;
  const std::shared_ptr<EventOutbox*> self_;  // for timers, which may outlive this
  const std::function<void(const MonitorEvent&)> send_;
  std::vector<MonitorEvent> held_;
  bool arriving_ = false;
};

}  // namespace cpr

#endif  // VMM_APP_EVENT_OUTBOX_H_
