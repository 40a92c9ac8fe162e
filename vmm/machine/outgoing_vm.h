#ifndef VMM_MACHINE_OUTGOING_VM_H_
#define VMM_MACHINE_OUTGOING_VM_H_

#include <string>
#include <vector>

#include "libcpr/modes/vm.h"
#include "vmm/machine/guest_sections.h"
#include "vmm/machine/machine.h"

namespace cpr {

// A machine on its way out. To be used on the event loop's thread.
class MachineOutgoing : public OutgoingVm {
 public:
  // `machine` must outlive it.
  explicit MachineOutgoing(Machine* machine) : machine_(machine) {}

  std::vector<std::string> Blockers(Mode mode) override;
  absl::Status Describe(Mode mode, Inventory& inventory) override;
  absl::Status Pause() override;
  void Resume() override;
  void Release() override;
  // A handover that failed before Pause: what Describe held back goes on.
  void Abandon();
  // After Release in cpr-reboot or cpr-luo, before the guest is taken back from its state: disk images are ours alone
  // again. kFailedPrecondition: somebody else has one; nothing has changed then. Release undoes it.
  absl::Status TakeImagesBack();

 private:
  // Where the guest is in a state that outlives the kernel, its disks must be where that finds them: a page cache goes
  // with its kernel. QEMU flushes them, too, as it stops a guest.
  absl::Status FlushImages() const;

  Machine* const machine_;
  Mode mode_ = Mode::kUnspecified;
  EarlyState early_;
  bool ran_ = false;
};

}  // namespace cpr

#endif  // VMM_MACHINE_OUTGOING_VM_H_
