#ifndef VMM_MACHINE_VCPU_THREAD_H_
#define VMM_MACHINE_VCPU_THREAD_H_

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mutex.h"
#include "libcpr/kvm/vcpu.h"
#include "vmm/machine/vcpu_exits.h"
#include "vmm/machine/vcpu_stop.h"

namespace cpr {

// One vCPU and the thread that runs it. The thread lives as long as the object and is parked while the guest is
// paused: joining and making it again would be the largest part of a handover's pause. A parked thread executes work,
// since the ioctls of a vCPU are fastest on the thread that ran it, and several vCPUs are saved in parallel that way.
//
// How a running vCPU is stopped without a race: RequestPark sets kvm_run.immediate_exit first and then sends the
// thread a signal whose handler does nothing. A signal that arrives inside KVM_RUN ends it (EINTR); one that arrives
// before is lost, but then KVM_RUN sees immediate_exit. Either way KVM completes the I/O that it exited for before it
// answers EINTR, so the thread parks on that answer only and no access of the guest is left half done.
//
// Thread-safe but for construction and destruction.
class VcpuThread {
 public:
  using Work = std::function<void(kvm::Vcpu& vcpu)>;

  // Starts the thread and waits until it is parked. `exits` must outlive the object. Installs the (empty) handler of
  // kKickSignal.
  static absl::StatusOr<std::unique_ptr<VcpuThread>> Create(kvm::Vcpu vcpu, VcpuExits* exits);
  // Parks the vCPU and ends the thread.
  ~VcpuThread();
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  uint32_t id() const { return vcpu_.id(); }
  // For use by the thread's work, or while it is parked.
  kvm::Vcpu& vcpu() { return vcpu_; }
  pid_t thread_id() const { return thread_id_; }

  // Lets the guest run; returns at once.
  void Start();
  // Makes the vCPU leave the guest soon; returns at once. May be called on vCPU threads, this one included.
  void RequestPark();
  // Waits until the vCPU is out of the guest, with its I/O completed. Not on vCPU threads.
  void AwaitParked();

  // Hands `work` to the parked thread and returns; AwaitWork waits for its end. One at a time.
  void Submit(Work work);
  void AwaitWork();

 private:
  VcpuThread(kvm::Vcpu vcpu, VcpuExits* exits) : vcpu_(std::move(vcpu)), exits_(exits) {}
  void Main();
  // The first KVM_RUN of a VM starts KVM's recovery thread for huge pages (kvm_mmu_post_init_vm), which takes longer
  // than the rest of a restore. It needs no guest: this one ends before it enters, when no guest waits for it yet.
  void TakeFirstRun();
  // Waits, parked, for something to do. True: run the guest. False: end. Executes work meanwhile.
  bool AwaitStart();
  void RunGuest();
  bool park_requested();
  // Why the vCPU cannot go on; nothing if it can.
  std::optional<VcpuStop> ServeExit();
  std::optional<VcpuStop> StopUnlessMistaken();
  void ServePortIo();
  void ServeMmio();
  void ParkAfter(const VcpuStop& stop);

  kvm::Vcpu vcpu_;
  VcpuExits* const exits_;
  std::thread thread_;
  std::atomic<pid_t> thread_id_{0};
  DeliveryErrors delivery_errors_;  // the thread's own

  Mutex mutex_;
  CondVar changed_;
  bool run_ ABSL_GUARDED_BY(mutex_) = false;     // what the thread shall do
  bool parked_ ABSL_GUARDED_BY(mutex_) = false;  // what it does
  bool exit_ ABSL_GUARDED_BY(mutex_) = false;
  Work work_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cpr

#endif  // VMM_MACHINE_VCPU_THREAD_H_
