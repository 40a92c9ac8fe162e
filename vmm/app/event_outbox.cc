#include "vmm/app/event_outbox.h"

#include <utility>

namespace cpr {

void EventOutbox::Add(MonitorEvent event, bool later) {
  held_.push_back(std::move(event));
  if (!later) return SendDue();
  if (held_.size() == 1) After(kLongestDelay, &EventOutbox::SendAll);
}

void EventOutbox::SendDue() {
  if (!arriving_) SendAll();
}

void EventOutbox::SendAll() {
  for (const MonitorEvent& event : std::exchange(held_, {})) send_(event);
}

void EventOutbox::LetGuestArrive() {
  arriving_ = true;
  After(kArrivalTime, &EventOutbox::EndArrival);
}

void EventOutbox::EndArrival() {
  arriving_ = false;
  SendAll();
}

void EventOutbox::After(absl::Duration delay, void (EventOutbox::*call)()) {
  loop_->AddTimer(delay, [weak = std::weak_ptr<EventOutbox*>(self_), call] {
    if (const auto self = weak.lock()) ((*self)->*call)();
  });
}

}  // namespace cpr
