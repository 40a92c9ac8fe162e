// The machine of cpr-vmm: RAM, a KVM VM, vCPU threads and platform devices, built from a description.
//
//   CPR_ASSIGN_OR_RETURN(auto machine, CreateMachine(system, loop, DescribeMachine(options), on_event));
//   machine->Resume();
//   loop->Run();
#ifndef VMM_MACHINE_MACHINE_H_
#define VMM_MACHINE_MACHINE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/kvm/system.h"
#include "libcpr/preserve/fd_table.h"
#include "vmm/chardev/chardev.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/machine/kvm_plan.h"
#include "vmm/machine/platform.h"
#include "vmm/machine/vcpu_exits.h"
#include "vmm/machine/vcpu_set.h"
#include "vmm/options/description.h"
#include "vmm/vfio/device_set.h"
#include "vmm/virtio/device_set.h"

namespace cpr {

// Must be made, used and destroyed on the event loop's thread.
class Machine final : private VcpuExits {
 public:
  struct Parts {
    MachineDescription description;  // complete
    KvmPlan kvm;
    GuestMemory memory;
    std::unique_ptr<Chardev> serial;  // null: the machine has no serial port
    // What came with the guest, for its devices to take; lent for the call. Null: the guest starts here.
    FdTable* fds = nullptr;
    // Of them, the VFIO devices'; nullopt: none have come, they are opened.
    std::optional<VfioDeviceSet::Arrived> vfio;
  };
  // The guest reset, suspended or powered off itself, or cannot go on. All vCPUs are parked when this is called, on the
  // event loop, and the machine stays paused unless the callee resumes it (after Reset, as a rule). `text` says why.
  using EventCallback = std::function<void(GuestEvent event, const std::string& text)>;

  // Builds the machine up to parked vCPU threads; nothing runs, and RAM is as it was. `system` and `loop` must outlive
  // it. Input from the serial chardev waits until Resume.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(const kvm::System* system, EventLoop* loop, Parts parts,
                                                         EventCallback on_event);
  ~Machine() override;

  // Loads kernel and initrd into RAM and puts vCPU 0 at its entry. Before the first Resume of a guest that starts here.
  absl::Status Boot();

  // Lets the guest run. Does nothing if it runs already.
  void Resume();
  // Takes all vCPUs out of the guest, their I/O completed. Does nothing if they are. About 100 us, and before that,
  // while the guest runs, as long as its disks take to complete what they have begun.
  void Pause();
  bool running() const { return running_; }

  // Puts a paused machine into the state in which it was made, and boots again. What RAM holds beside the kernel stays.
  // After an error the guest cannot run.
  absl::Status Reset();

  // Wakes a guest that has suspended itself (GuestEvent::kSuspend): everything but RAM is as after a reset, and vCPU 0
  // at the guest's waking vector. Resume lets it run. kFailedPrecondition: the guest left none; nothing has changed
  // then.
  absl::Status Wakeup();

  // An event that the callback has not been told of yet: the guest must not be handed over.
  bool event_pending() const { return event_pending_.load(); }

  const kvm::System& system() const { return *system_; }
  const MachineDescription& description() const { return description_; }
  const KvmPlan& kvm_plan() const { return kvm_plan_; }
  GuestMemory& memory() { return memory_; }
  kvm::Vm& vm() { return vm_; }
  VcpuSet& vcpus() { return *vcpus_; }
  Platform& platform() { return *platform_; }
  // Null: the machine has no serial port.
  Chardev* serial() { return serial_.get(); }
  // Null: the machine has none.
  VirtioDeviceSet* devices() { return platform_->devices(); }
  VfioDeviceSet* vfio_devices() { return platform_->vfio_devices(); }

 private:
  Machine(const kvm::System* system, EventLoop* loop, Parts parts, kvm::Vm vm, EventCallback on_event);
  absl::Status CreatePlatform(FdTable* fds, std::optional<VfioDeviceSet::Arrived> vfio);
  absl::Status RestoreResetState(const ResetState& state);
  absl::Status ResetAllButRam();
  absl::Status WriteAcpiTables();
  absl::StatusOr<uint32_t> WakingVector() const;
  void RequestEvent(GuestEvent event, const std::string& text);
  void DeliverEvent(GuestEvent event, const std::string& text);
  void StopFor(const std::string& text);

  // VcpuExits.
  void ReadPort(uint16_t port, absl::Span<uint8_t> data) override;
  void WritePort(uint16_t port, absl::Span<const uint8_t> data) override;
  void ReadMmio(uint64_t gpa, absl::Span<uint8_t> data) override;
  void WriteMmio(uint64_t gpa, absl::Span<const uint8_t> data) override;
  void EndOfInterrupt(uint8_t vector) override;
  void GuestStopped(uint32_t vcpu_id, GuestEvent event, const std::string& text) override;

  const kvm::System* const system_;
  EventLoop* const loop_;
  MachineDescription description_;  // does not change once the machine is made
  const KvmPlan kvm_plan_;
  const EventCallback on_event_;
  // Work posted to the loop holds this weakly: it must not find a dead machine.
  const std::shared_ptr<Machine*> self_;
  std::atomic<bool> event_pending_{false};
  bool running_ = false;
  bool ran_ = false;

  // In the order in which they need each other; destroyed the other way round.
  GuestMemory memory_;
  std::unique_ptr<Chardev> serial_;
  kvm::Vm vm_;
  std::unique_ptr<Platform> platform_;
  std::optional<VcpuSet> vcpus_;
};

// The machine that `description` (complete) tells of, with new RAM and chardev, booted and paused.
absl::StatusOr<std::unique_ptr<Machine>> CreateMachine(const kvm::System* system, EventLoop* loop,
                                                       const MachineDescription& description,
                                                       Machine::EventCallback on_event);

// Makes the process's fd table large at once. It grows by itself, too, but with threads running each doubling waits for
// an RCU grace period (11 to 70 ms): call this first thing in main, before any thread exists. Never fails; a low
// RLIMIT_NOFILE makes it do less.
void GrowFdTable();

}  // namespace cpr

#endif  // VMM_MACHINE_MACHINE_H_
