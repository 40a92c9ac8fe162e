#ifndef TESTS_GUEST_GUEST_VM_H_
#define TESTS_GUEST_GUEST_VM_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/mutex.h"
#include "libcpr/kvm/gsi_routes.h"
#include "libcpr/kvm/system.h"
#include "libcpr/kvm/vcpu.h"
#include "libcpr/kvm/vm.h"
#include "libcpr/kvm/vm_state.h"
#include "tests/guest/guest_abi.h"
#include "vmm/boot/pvh.h"

namespace cpr::testing {

// The least VM that runs the self-checking guest: RAM, vCPUs, COM1's transmitter, and nothing of cpr-vmm but its
// loader. Thread-compatible. Registers may be looked at and altered while it is paused.
class GuestVm {
 public:
  struct Options {
    uint32_t vcpus = 1;
    uint64_t ram_bytes = 64 << 20;  // beyond 3 GiB the rest begins at 4 GiB
    std::string cmdline;            // "cpus=N" is added
    bool full_irqchip = false;      // PIC, IOAPIC and PIT in the kernel; else LAPICs alone
    bool offer_x2apic = true;
    // A device's answer to a vCPU's exit, on the vCPU's thread; false: the exit is none of its business.
    std::function<bool(GuestVm*, kvm_run*)> serve;
  };
  // Loads tests/guest/payload.elf, which the test must have among its data. The guest does not run yet.
  static absl::StatusOr<std::unique_ptr<GuestVm>> Create(const Options& options);
  ~GuestVm();

  // Lets the vCPUs run; Pause returns when all are out of KVM_RUN, with pending I/O completed.
  void Resume();
  void Pause();

  // While paused: saves all of the VM by libcpr/kvm, drops it, and restores it into a new KVM VM on the same RAM.
  absl::Status Rebuild();

  volatile cpr_guest_abi& abi() { return *reinterpret_cast<volatile cpr_guest_abi*>(low_.data() + CPR_GUEST_ABI_GPA); }
  kvm::Vm& vm() { return vm_; }
  kvm::Vcpu& vcpu(uint32_t i) { return vcpus_[i]->vcpu; }
  absl::StatusOr<absl::Span<uint8_t>> Ram(uint64_t gpa, uint64_t size_bytes);
  std::string serial();
  void Type(char c);

  // Waits until `done` or until a vCPU ends. kDeadlineExceeded and the vCPU's error carry the serial line's text.
  absl::Status WaitFor(const std::function<bool()>& done, absl::Duration timeout = absl::Seconds(30));
  absl::Status WaitRunning();
  // Rings the doorbell; the guest's verdict, its failure code (CPR_GUEST_OK: all is well).
  absl::StatusOr<uint32_t> Verify();

 private:
  struct VcpuThread {
    explicit VcpuThread(kvm::Vcpu v) : vcpu(std::move(v)) {}
    kvm::Vcpu vcpu;
    std::thread thread;
  };

  GuestVm(const Options& options, kvm::System system, kvm::Vm vm);
  absl::Status MapRam();
  absl::Status AddRam(kvm::Vm* vm);
  absl::Status CreateVcpus();
  absl::Status Load();
  void RunVcpu(VcpuThread* self);
  absl::Status RunUntilPaused(kvm::Vcpu* vcpu);
  absl::Status Serve(kvm::Vcpu* vcpu);
  void Serial(kvm_run* run);
  uint8_t ReadSerial(uint16_t reg);
  void WriteSerial(uint16_t reg, uint8_t value);

  Options options_;
  kvm::System system_;
  kvm::VmConfig config_;
  kvm::GsiRoutes routes_;
  kvm::Vm vm_;
  Mapping low_, high_;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;
  Mutex mutex_;
  CondVar changed_;
  uint64_t resumes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  uint32_t parked_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);
  std::string serial_ ABSL_GUARDED_BY(mutex_);
  std::string typed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace cpr::testing

#endif  // TESTS_GUEST_GUEST_VM_H_
