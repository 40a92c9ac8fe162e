#ifndef TESTS_KVM_TEST_MACHINE_H_
#define TESTS_KVM_TEST_MACHINE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libcpr/kvm/system.h"
#include "tests/guest/guest_abi.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/machine/machine.h"
#include "vmm/virtio/config.h"

namespace cpr::testing {

// What a test asks of the machine that runs the self-checking guest (which the test must have among its data).
struct GuestMachineOptions {
  unsigned vcpus = 1;
  IrqchipKind irqchip = IrqchipKind::kSplit;
  uint64_t ram_bytes = 64 << 20;
  std::string cmdline;      // "cpus=N" is added
  std::string serial_path;  // a file
  std::vector<VirtioDeviceConfig> devices;
};
MachineDescription DescribeGuestMachine(const GuestMachineOptions& options);

// The words that the guest shows in `machine`'s RAM.
volatile cpr_guest_abi& GuestAbi(Machine& machine);

// Runs `loop` until `done`. kDeadlineExceeded.
absl::Status RunLoopUntil(EventLoop& loop, const std::function<bool()>& done,
                          absl::Duration timeout = absl::Seconds(30));

// Rings the guest's doorbell and returns its verdict: kInternal with its words if it found something wrong.
absl::Status VerifyGuest(EventLoop& loop, Machine& machine);

// The file's text.
std::string TextOf(const std::string& path);

}  // namespace cpr::testing

#endif  // TESTS_KVM_TEST_MACHINE_H_
