#ifndef VMM_MACHINE_INTX_LINES_H_
#define VMM_MACHINE_INTX_LINES_H_

#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "libcpr/base/mutex.h"
#include "libcpr/kvm/vm.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/pci/intx_router.h"

namespace cpr {

// With KVM's own IOAPIC, KVM listens and resamples by itself. With one in user space, the event loop listens, and the
// IOAPIC tells by Eoi.
class IntxLines final : public IntxRouter {
 public:
  // All must outlive it. `set_line` asserts and deasserts a pin of the IOAPIC in user space; empty: KVM has it.
  IntxLines(kvm::Vm* vm, EventLoop* loop, std::function<void(unsigned gsi, bool asserted)> set_line)
      : vm_(vm), loop_(loop), set_line_(std::move(set_line)) {}

  absl::Status Add(const Line& line) override;
  void Remove(const Line& line) override;
  absl::Status Open(const Line& line) override;
  absl::Status Close(const Line& line) override;
  absl::Status Hold(const Line& line) override;

  // The guest is done with a level-triggered interrupt of the IOAPIC in user space. Thread-safe.
  void Eoi(unsigned gsi);

 private:
  struct State {
    Line line;
    bool open = false;
  };
  void TakeTrigger(int trigger);
  absl::Status Listen(const Line& line);
  bool SetOpen(const Line& line, bool open);

  kvm::Vm* const vm_;
  EventLoop* const loop_;
  const std::function<void(unsigned, bool)> set_line_;
  Mutex mutex_;
  std::map<int, State> lines_ ABSL_GUARDED_BY(mutex_);  // by trigger
};

}  // namespace cpr

#endif  // VMM_MACHINE_INTX_LINES_H_
