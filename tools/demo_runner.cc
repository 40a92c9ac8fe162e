// The demo: one guest, carried from VMM to VMM by every mode in turn. Run by tools/demo.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_util.h"
#include "libcpr/testing/kvm_gate.h"
#include "tests/driver/guest_rig.h"

namespace cpr {
namespace {

constexpr int kNoKvm = 3;  // exit status by which tools/demo knows to try elsewhere
constexpr Mode kModes[] = {Mode::kTransfer, Mode::kExec, Mode::kReboot};

struct DemoOptions {
  int vcpus = 2;
  int ram_mib = 512;
  int rounds = 3;
};

bool TakeNumber(absl::string_view word, absl::string_view name, int* value) {
  return absl::ConsumePrefix(&word, name) && absl::SimpleAtoi(word, value) && *value > 0;
}

bool ParseWord(absl::string_view word, DemoOptions* options) {
  return TakeNumber(word, "--vcpus=", &options->vcpus) || TakeNumber(word, "--ram-mib=", &options->ram_mib) ||
         TakeNumber(word, "--rounds=", &options->rounds);
}

void SayHowToGetKvm(const absl::Status& why) {
  std::fprintf(stderr, "demo: KVM does not work here: %s\n", std::string(why.message()).c_str());
  switch (StatusErrno(why)) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      std::fprintf(stderr,
                   "What to do: on bare metal, switch virtualization on in the firmware and `modprobe kvm_intel` (or "
                   "kvm_amd).\nIn a virtual machine, have nested virtualization switched on by its host. In a "
                   "container, pass the device: --device /dev/kvm.\n");
      break;
    case EACCES:
    case EPERM:
      std::fprintf(stderr, "What to do: run as root, or join the group that owns /dev/kvm: usermod -aG kvm $USER.\n");
      break;
    default:
      std::fprintf(stderr,
                   "What to do: /dev/kvm is there, but a guest of one instruction does not run. See `dmesg | grep -i "
                   "kvm`;\nin a virtual machine, nested virtualization may be missing on the host.\n");
  }
}

std::string Verdict(const absl::Status& verdict) { return verdict.ok() ? "OK" : std::string(verdict.message()); }

void PrintHeader() {
  std::printf("\n%-13s %11s   ", "mode", "guest pause");
  for (int i = 0; i < kPhaseCount; ++i) {
    std::printf(" %8s", std::string(PhaseName(static_cast<Phase>(i))).c_str());
  }
  std::printf("   %8s    %-8s  %s\n", "old PID", "new PID", "guest says");
  std::fflush(stdout);
}

void PrintRow(const Handover& handover) {
  std::printf("%-13s %8.2f ms   ", std::string(ModeName(handover.mode)).c_str(),
              static_cast<double>(handover.guest_pause_ns) / 1e6);
  for (const int64_t ns : handover.phases_ns) std::printf(" %8.2f", static_cast<double>(ns) / 1e6);
  std::printf("   %8d -> %-8d  %s\n", handover.pid_before, handover.pid_after, Verdict(handover.verdict).c_str());
  std::fflush(stdout);
}

// Numbers of handovers that came off, and of those that the guest verified.
struct Tally {
  int done = 0;
  int verified = 0;
  int64_t longest_pause_ns = 0;
};

absl::Status RunRounds(GuestRig& rig, const DemoOptions& options, Tally* tally) {
  PrintHeader();
  for (int round = 0; round < options.rounds; ++round) {
    for (const Mode mode : kModes) {
      const absl::StatusOr<Handover> handover = rig.HandOver(mode);
      if (!handover.ok()) return handover.status();
      PrintRow(*handover);
      ++tally->done;
      if (handover->verdict.ok()) ++tally->verified;
      tally->longest_pause_ns = std::max(tally->longest_pause_ns, handover->guest_pause_ns);
    }
  }
  return absl::OkStatus();
}

int RunDemo(const DemoOptions& options) {
  if (const absl::Status usable = testing::KvmUsable(); !usable.ok()) {
    SayHowToGetKvm(usable);
    return kNoKvm;
  }
  std::printf("Booting the self-checking guest: %d vCPUs, %d MiB\n", options.vcpus, options.ram_mib);
  std::fflush(stdout);
  absl::StatusOr<std::unique_ptr<GuestRig>> rig = GuestRig::Start({.vcpus = options.vcpus, .ram_mib = options.ram_mib});
  if (!rig.ok()) {
    std::fprintf(stderr, "demo: %s\n", rig.status().ToString().c_str());
    return 1;
  }
  std::printf("The guest runs and checks itself; its VMM is process %d. VMM phase times in ms; pauses from outside.\n",
              (*rig)->vmm().process().pid());
  Tally tally;
  const absl::Status done = RunRounds(**rig, options, &tally);
  if (!done.ok()) std::fprintf(stderr, "demo: %s\n", done.ToString().c_str());
  const int wanted = options.rounds * static_cast<int>(std::size(kModes));
  std::printf("\n%d of %d handovers, %d verified by the guest; it never stood still for longer than %.2f ms.\n",
              tally.done, wanted, tally.verified, static_cast<double>(tally.longest_pause_ns) / 1e6);
  return done.ok() && tally.verified == wanted ? 0 : 1;
}

}  // namespace
}  // namespace cpr

int main(int argc, char** argv) {
  cpr::DemoOptions options;
  for (int i = 1; i < argc; ++i) {
    if (cpr::ParseWord(argv[i], &options)) continue;
    std::fprintf(stderr, "demo: %s: unknown option; see tools/demo --help\n", argv[i]);
    return 2;
  }
  return cpr::RunDemo(options);
}
