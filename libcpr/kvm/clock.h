#ifndef LIBCPR_KVM_CLOCK_H_
#define LIBCPR_KVM_CLOCK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/kvm/caps.h"
#include "libcpr/kvm/vm.h"

// kvm-clock and TSC over a handover. Both go on as if nobody had stopped: kvm-clock advances by the time that passed,
// and the TSC stays tied to it. Source: Documentation/virt/kvm/devices/vcpu.rst, 4.1.

namespace cpr::kvm {

// kvm-clock and what the host's clocks said at the same instant. A plain value.
struct ClockState {
  uint64_t kvmclock_ns = 0;
  uint64_t host_tsc = 0;
  uint64_t realtime_ns = 0;  // CLOCK_REALTIME
  uint64_t host_base_ns =
      0;  // what KVM derives kvm-clock from: CLOCK_MONOTONIC_RAW plus time suspended; same kernel only
  bool master_clock = false;  // kvm-clock is derived from the TSC, and the kernel itself took host_tsc and realtime_ns
  uint32_t tsc_khz = 0;       // of host and guest; 0 = not known
};

// Reads the clock. May be called while the guest runs. `tsc_khz`: VcpuConfig::tsc_khz, 0 if not known.
absl::StatusOr<ClockState> SaveClock(const Vm& vm, uint32_t tsc_khz);

enum class ClockRule {
  kSameKernel,  // transfer, exec, reboot of the VMM alone: the host's TSC went on, TSC offsets stay as they are
  kNewKernel,   // after kexec or a reboot of the host: the host's TSC started anew, CLOCK_REALTIME tells what passed
};

// Sets the VM's clock to `state` plus what has passed since, and returns what must be added (modulo 2^64) to every
// vCPU's VcpuState::tsc_offset before RestoreVcpu: 0 under kSameKernel. All vCPUs must exist and none may have run: a
// later KVM_SET_CLOCK has hung guests for minutes. From here to the first KVM_RUN the clock goes by
// CLOCK_MONOTONIC_RAW, whose rate is not quite that of the TSC as KVM knows it (5 to 55 ppm apart, on emulated hosts):
// the sooner the run comes, the better. So under kSameKernel it is best the last thing restored. kNewKernel supposes a
// CLOCK_REALTIME that is right on both sides, and a guest TSC that is not scaled. kFailedPrecondition: kNewKernel and
// `state` has no tsc_khz.
absl::StatusOr<uint64_t> RestoreClock(Vm& vm, const ClockState& state, ClockRule rule, const HostCaps& caps);

}  // namespace cpr::kvm

#endif  // LIBCPR_KVM_CLOCK_H_
