#ifndef LIBCPR_KVM_VCPU_H_
#define LIBCPR_KVM_VCPU_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::kvm {

// One vCPU of a KVM VM: its fd and its mapped kvm_run. One method per ioctl, no policy.
// Thread-compatible; the kernel serialises the ioctls of one vCPU and KVM_RUN holds that lock, so call them from the
// thread that runs it, or while it is out of KVM_RUN. SetImmediateExit may be called from any thread and any signal
// handler. Errors carry errno and name the ioctl and the vCPU: "KVM_SET_SREGS2 vcpu 3: Invalid argument".
// Source: Documentation/virt/kvm/api.rst.
class [[nodiscard]] Vcpu {
 public:
  // Takes over a vCPU fd that KVM_CREATE_VCPU made, and maps its kvm_run of `run_size_bytes`.
  static absl::StatusOr<Vcpu> Adopt(UniqueFd fd, uint32_t id, size_t run_size_bytes);

  uint32_t id() const { return id_; }
  // Lent.
  int fd() const { return fd_.get(); }
  // The page(s) shared with the kernel; valid while this object lives, also after it moved.
  kvm_run* run() const { return reinterpret_cast<kvm_run*>(run_.data()); }

  // kExit: run()->exit_reason says why. kInterrupted: a signal or immediate_exit (EINTR), or a vCPU that waits for
  // INIT/SIPI woke up (EAGAIN): nothing to serve.
  enum class Outcome { kExit, kInterrupted };
  absl::StatusOr<Outcome> Run();
  // Makes the next (not the present) KVM_RUN return kInterrupted once pending I/O is completed; kick a running one by a
  // signal besides.
  void SetImmediateExit(bool on) const;
  // Tells the guest by its clock page that it was stopped: KVM_KVMCLOCK_CTRL. EINVAL = it has no kvm-clock.
  absl::Status KvmclockCtrl();
  absl::Status Nmi();

  absl::StatusOr<kvm_regs> Regs() const;
  absl::Status SetRegs(const kvm_regs& regs);
  absl::StatusOr<kvm_sregs> Sregs() const;
  absl::Status SetSregs(const kvm_sregs& sregs);
  absl::StatusOr<kvm_sregs2> Sregs2() const;  // needs KVM_CAP_SREGS2
  absl::Status SetSregs2(const kvm_sregs2& sregs);
  absl::StatusOr<kvm_mp_state> MpState() const;
  absl::Status SetMpState(const kvm_mp_state& state);
  absl::StatusOr<kvm_lapic_state> Lapic() const;
  absl::Status SetLapic(const kvm_lapic_state& lapic);
  absl::StatusOr<kvm_debugregs> DebugRegs() const;
  absl::Status SetDebugRegs(const kvm_debugregs& regs);
  absl::StatusOr<kvm_xcrs> Xcrs() const;
  absl::Status SetXcrs(const kvm_xcrs& xcrs);
  absl::StatusOr<kvm_vcpu_events> VcpuEvents() const;
  absl::Status SetVcpuEvents(const kvm_vcpu_events& events);

  // The XSAVE area, uncompacted. `size_bytes` is HostCaps::xsave_size_bytes; beyond 4096 needs KVM_CAP_XSAVE2.
  absl::StatusOr<std::vector<uint8_t>> Xsave2(size_t size_bytes) const;
  absl::StatusOr<std::vector<uint8_t>> Xsave() const;
  // `xsave` must be at least as large as the host's area.
  absl::Status SetXsave(absl::Span<const uint8_t> xsave);

  absl::StatusOr<std::vector<kvm_cpuid_entry2>> Cpuid2() const;
  absl::Status SetCpuid2(absl::Span<const kvm_cpuid_entry2> entries);

  // Reads `indices` in order and stops at the first that cannot be read: the result may be shorter.
  absl::StatusOr<std::vector<kvm_msr_entry>> Msrs(absl::Span<const uint32_t> indices) const;
  // Writes in order and stops at the first that is refused; returns how many were written.
  absl::StatusOr<size_t> SetMsrs(absl::Span<const kvm_msr_entry> entries);

  // `size_bytes` is HostCaps::nested_state_size_bytes. The result is as long as the state is (kvm_nested_state.size).
  absl::StatusOr<std::vector<uint8_t>> NestedState(size_t size_bytes) const;
  absl::Status SetNestedState(absl::Span<const uint8_t> state);

  absl::StatusOr<uint32_t> TscKhz() const;
  absl::Status SetTscKhz(uint32_t tsc_khz);
  // KVM_VCPU_TSC_CTRL / KVM_VCPU_TSC_OFFSET: guest TSC = host TSC (scaled) + offset.
  absl::StatusOr<uint64_t> TscOffset() const;
  absl::Status SetTscOffset(uint64_t offset);

 private:
  Vcpu(UniqueFd fd, uint32_t id, Mapping run) : fd_(std::move(fd)), id_(id), run_(std::move(run)) {}
  absl::StatusOr<int> Call(unsigned long request, absl::string_view name, const volatile void* arg) const;  // NOLINT
  absl::StatusOr<int> Call(unsigned long request, absl::string_view name, uint64_t arg) const;              // NOLINT
  template <typename T>
  absl::StatusOr<T> Read(unsigned long request, absl::string_view name) const;  // NOLINT

  UniqueFd fd_;
  uint32_t id_ = 0;
  Mapping run_;
};

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_VCPU_H_
