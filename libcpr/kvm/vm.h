#ifndef LIBCPR_KVM_VM_H_
#define LIBCPR_KVM_VM_H_

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/kvm/uapi.h"
#include "libcpr/kvm/vcpu.h"

namespace cpr::kvm {

// A write of the guest that becomes an eventfd signal.
struct IoEventFd {
  enum class Space { kMmio, kPio };
  Space space = Space::kMmio;
  uint64_t address = 0;
  uint32_t size_bytes = 0;  // 1, 2, 4, 8; 0 = any (MMIO)
  std::optional<uint64_t> datamatch;
  int eventfd = -1;  // lent; KVM holds its own reference while assigned
};

// One KVM VM: its fd. One method per ioctl, no policy. Errors carry errno and name the ioctl. The VM belongs to the mm
// that made it: after fork or execve its ioctls answer EIO.
// Thread-compatible, and the kernel serialises where it must: irqfds, MSIs and lines may be used from any thread.
// Source: Documentation/virt/kvm/api.rst.
class [[nodiscard]] Vm {
 public:
  // Takes over a VM fd that KVM_CREATE_VM made; `vcpu_run_size_bytes` is the answer of KVM_GET_VCPU_MMAP_SIZE.
  static Vm Adopt(UniqueFd fd, size_t vcpu_run_size_bytes) { return Vm(std::move(fd), vcpu_run_size_bytes); }

  // Lent.
  int fd() const { return fd_.get(); }

  absl::StatusOr<int> CheckExtension(int cap) const;

  // Intel needs three pages at `gpa` and one at `gpa` respectively, below 4 GiB and outside RAM. Before any vCPU.
  absl::Status SetTssAddr(uint64_t gpa);
  absl::Status SetIdentityMapAddr(uint64_t gpa);
  absl::Status SetBootCpuId(uint32_t vcpu_id);
  absl::Status SetUserMemoryRegion(const kvm_userspace_memory_region& region);
  // KVM_CAP_X2APIC_API: KVM_X2APIC_API_USE_32BIT_IDS, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK. Before any vCPU.
  absl::Status EnableX2ApicApi(uint64_t flags);

  // Let pending exceptions and triple faults be told apart in kvm_vcpu_events. Before any vCPU.
  absl::Status EnableExceptionPayload();
  absl::Status EnableTripleFaultEvent();

  // PIC, IOAPIC and LAPICs in the kernel; or the LAPICs alone and `routes` GSIs kept for a user-space IOAPIC. Before
  // any vCPU.
  absl::Status CreateIrqchip();
  absl::Status EnableSplitIrqchip(uint32_t routes = 24);
  absl::Status CreatePit2(uint32_t flags = 0);  // needs CreateIrqchip

  // Assigned eventfds are lent: KVM holds its own reference until Deassign. `resamplefd` is signalled when the guest
  // ends a level-triggered interrupt.
  absl::Status AssignIrqfd(int eventfd, uint32_t gsi, std::optional<int> resamplefd = std::nullopt);
  absl::Status DeassignIrqfd(int eventfd, uint32_t gsi);
  absl::Status AssignIoEventFd(const IoEventFd& event);
  absl::Status DeassignIoEventFd(const IoEventFd& event);

  // Replaces all routes. Each call waits for an SRCU grace period: once for a batch, never once a vector.
  absl::Status SetGsiRouting(absl::Span<const kvm_irq_routing_entry> routes);
  // > 0: delivered to so many vCPUs; 0: the guest masks it.
  absl::StatusOr<int> SignalMsi(const kvm_msi& msi);
  absl::Status IrqLine(uint32_t gsi, bool level);

  absl::StatusOr<kvm_clock_data> Clock() const;
  absl::Status SetClock(const kvm_clock_data& clock);
  absl::StatusOr<kvm_irqchip> Irqchip(uint32_t chip_id) const;  // KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE, _IOAPIC
  absl::Status SetIrqchip(const kvm_irqchip& chip);
  absl::StatusOr<kvm_pit_state2> Pit2() const;
  absl::Status SetPit2(const kvm_pit_state2& pit);

  absl::StatusOr<Vcpu> CreateVcpu(uint32_t id) const;

 private:
  Vm(UniqueFd fd, size_t vcpu_run_size_bytes) : fd_(std::move(fd)), vcpu_run_size_bytes_(vcpu_run_size_bytes) {}

  UniqueFd fd_;
  size_t vcpu_run_size_bytes_ = 0;
};

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_VM_H_
