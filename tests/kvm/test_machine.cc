#include "tests/kvm/test_machine.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr::testing {

MachineDescription DescribeGuestMachine(const GuestMachineOptions& options) {
  MachineDescription machine;
  machine.irqchip = options.irqchip;
  machine.vcpus = options.vcpus;
  machine.memory_bytes = options.ram_bytes;
  machine.memory = MemoryBackend{
      .kind = MemoryBackendKind::kMemfd, .id = kImplicitRamId, .size_bytes = options.ram_bytes, .share = true};
  machine.kernel = std::filesystem::absolute("tests/guest/payload.elf").string();
  machine.initrd = "";
  machine.append = absl::StrCat("cpus=", options.vcpus, " ", options.cmdline);
  machine.serial = ChardevOption{.config = {.kind = ChardevConfig::Kind::kFile, .path = options.serial_path}};
  machine.name = "";
  machine.uuid = "";
  machine.devices = options.devices;
  machine.vfio_devices.emplace();
  return machine;
}

volatile cpr_guest_abi& GuestAbi(Machine& machine) {
  return *reinterpret_cast<volatile cpr_guest_abi*>(machine.memory().mapped().front() + CPR_GUEST_ABI_GPA);
}

absl::Status RunLoopUntil(EventLoop& loop, const std::function<bool()>& done, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!done()) {
    if (absl::Now() > deadline) return absl::DeadlineExceededError("the guest does not get there");
    loop.RunOnce(absl::Milliseconds(1));
  }
  return absl::OkStatus();
}

absl::Status VerifyGuest(EventLoop& loop, Machine& machine) {
  volatile cpr_guest_abi& abi = GuestAbi(machine);
  const uint64_t request = abi.verify_request + 1;
  abi.verify_request = request;
  const absl::Status waited = RunLoopUntil(loop, [&] { return abi.verify_done == request || abi.failure != 0; });
  const std::string text = const_cast<const char*>(abi.fail_text);
  if (abi.failure != 0) return absl::InternalError(absl::StrCat("the guest says: ", text));
  return Annotate(waited, "verification");
}

std::string TextOf(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace cpr::testing
