#ifndef TESTS_KVM_TEST_VM_H_
#define TESTS_KVM_TEST_VM_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/mapping.h"
#include "libcpr/kvm/system.h"
#include "libcpr/kvm/vcpu_state.h"
#include "libcpr/kvm/vm_state.h"

namespace cpr::testing {

// Guest RAM of the tests: 1 MiB at 0, shared by the VMs that take over from each other.
inline constexpr size_t kRamBytes = 1 << 20;
inline constexpr uint64_t kCodeGpa = 0x1000;
inline constexpr uint64_t kDataGpa = 0x8000;

// A real VM with its vCPUs, which share the given RAM. Public members: a test's own.
struct TestVm {
  kvm::Vm vm;
  kvm::VmConfig config;
  std::vector<std::unique_ptr<kvm::Vcpu>> vcpus;
  kvm::GsiRoutes routes;
  kvm::VcpuConfig vcpu_config;  // of vCPU 0

  kvm::Vcpu& vcpu(size_t i = 0) { return *vcpus[i]; }
  std::vector<kvm::Vcpu*> All();
};

absl::StatusOr<TestVm> MakeTestVm(const kvm::System& system, const Mapping& ram, kvm::IrqchipKind irqchip,
                                  uint32_t vcpu_count = 1);

// Puts `code` (16-bit) at kCodeGpa and points `vcpu`, in real mode with all segments at 0, there. SP is 0x7000.
absl::Status LoadRealModeCode(kvm::Vcpu& vcpu, const Mapping& ram, absl::Span<const uint8_t> code);

// Whether this KVM really offsets the guest's TSC: software backends may take KVM_VCPU_TSC_OFFSET and ignore it.
bool HonoursTscOffset(kvm::Vcpu& vcpu);

// Runs until the guest writes to port `port` and returns what it wrote. Any other exit is an error that names it.
absl::StatusOr<uint32_t> RunToPort(kvm::Vcpu& vcpu, uint16_t port);

// Completes the I/O that the last exit left pending, as must be done before saving.
absl::Status CompletePendingIo(kvm::Vcpu& vcpu);

// Everything over: pending I/O completed, state saved, restored into `to`.
absl::Status HandOver(const kvm::System& system, TestVm& from, TestVm& to,
                      kvm::ClockRule rule = kvm::ClockRule::kSameKernel);

}  // namespace cpr::testing

#endif  // TESTS_KVM_TEST_VM_H_
