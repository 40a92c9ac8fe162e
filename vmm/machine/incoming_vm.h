#ifndef VMM_MACHINE_INCOMING_VM_H_
#define VMM_MACHINE_INCOMING_VM_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "libcpr/modes/vm.h"
#include "vmm/machine/guest_sections.h"
#include "vmm/machine/machine.h"

namespace cpr {

// A machine on its way in, built by the description that arrives. To be used on the event loop's thread.
class MachineIncoming : public IncomingVm {
 public:
  // `given`: what the user's command line says of the machine, which must not differ. `same_process`: the guest comes
  // from an earlier program of this process. `system` and `loop` must outlive it and the machine.
  MachineIncoming(const kvm::System* system, EventLoop* loop, MachineDescription given, bool same_process,
                  Machine::EventCallback on_event)
      : system_(system),
        loop_(loop),
        given_(std::move(given)),
        same_process_(same_process),
        on_event_(std::move(on_event)) {}

  std::vector<SectionSupport> Supported() override { return GuestSectionSupport(); }
  absl::Status RegisterEarly(SectionRegistry& sections) override {
    return AddEarlySections(&early_, /*incoming=*/true, sections);
  }
  absl::Status Build(Inventory& arrived) override;
  // Gives the chardevs their turn again. Whether the vCPUs run is for a subclass to say.
  void Run() override;

  // Whether Build has failed because of `given`.
  bool words_differ() const { return words_differ_; }
  // Null before Build.
  Machine* machine() { return machine_.get(); }
  std::unique_ptr<Machine> TakeMachine() { return std::move(machine_); }

 private:
  // Ports that the command line puts something else behind.
  absl::Status DropOtherPortsFds(const MachineDescription& description, FdTable& fds) const;
  absl::StatusOr<std::unique_ptr<Chardev>> BuildSerial(const MachineDescription& description, FdTable& fds);

  const kvm::System* const system_;
  EventLoop* const loop_;
  const MachineDescription given_;
  const bool same_process_;
  const Machine::EventCallback on_event_;
  EarlyState early_;
  bool words_differ_ = false;
  std::unique_ptr<Machine> machine_;
};

}  // namespace cpr

#endif  // VMM_MACHINE_INCOMING_VM_H_
