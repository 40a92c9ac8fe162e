#ifndef VMM_OPTIONS_OPTIONS_H_
#define VMM_OPTIONS_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "vmm/options/channel.h"
#include "vmm/options/chardev_option.h"
#include "vmm/options/memory_backend.h"
#include "vmm/options/sandbox_option.h"
#include "vmm/vfio/config.h"
#include "vmm/virtio/config.h"

namespace cpr {

inline constexpr unsigned kMaxVcpus = 64;

enum class IrqchipKind { kUnspecified, kSplit, kKernel };

// -incoming: `main` is empty when it says "defer", and migrate-incoming will tell.
struct IncomingOptions {
  std::optional<Address> main;
  std::optional<Address> cpr;
};

struct MonitorOptions {
  enum class Protocol { kUnspecified, kHmp, kQmp };
  Protocol protocol = Protocol::kUnspecified;
  ChardevConfig chardev;  // kStdio or kSocket
};

// The command line. An option that was not given is empty, so that a description of the machine that arrives with a
// state can be compared with what the user asked for and nothing else; description.h fills in the defaults.
struct Options {
  bool print_help = false;
  bool print_version = false;

  std::optional<std::string> machine_type;  // "q35", "pc" or "microvm": one and the same machine
  std::optional<IrqchipKind> irqchip;
  // Whether RAM that no -object describes is shared. Given as aux-ram-share or memfd-alloc.
  std::optional<bool> aux_ram_share;
  std::optional<unsigned> vcpus;
  std::optional<uint64_t> memory_bytes;
  // The -object that is the machine's RAM: the one that -machine memory-backend= names, or the only one there is.
  std::optional<MemoryBackend> memory_backend;

  std::optional<std::string> kernel;
  std::optional<std::string> initrd;
  std::optional<std::string> append;

  std::optional<ChardevOption> serial;         // with chardev:ID, what ID stands for
  std::vector<VirtioDeviceConfig> devices;     // -device, with what -drive, -blockdev and -chardev say
  std::vector<VfioDeviceConfig> vfio_devices;  // -device vfio-pci
  std::vector<MonitorOptions> monitors;

  std::optional<std::string> name;
  std::optional<std::string> uuid;  // lower case
  std::optional<std::string> pidfile;
  std::optional<std::string> log_file;
  bool start_paused = false;  // -S
  SandboxOption sandbox;
  bool nodefaults = false;
  bool nographic = false;
  bool no_reboot = false;

  std::optional<IncomingOptions> incoming;
};

// Parses `args`, the words after the program's name. kInvalidArgument with QEMU's text where it has one, beginning with
// the option: "-m 5x: Parameter 'size' expects ...". Thread-safe.
absl::StatusOr<Options> ParseOptions(absl::Span<const std::string> args);
absl::StatusOr<Options> ParseOptions(int argc, const char* const* argv);

// What -help and -version print.
std::string HelpText();
std::string VersionText();

// Whether `text` is 8-4-4-4-12 hexadecimal digits.
bool IsUuid(absl::string_view text);

// Whether `words`, a command line, has -incoming among them (an exec into it would end the guest otherwise).
bool HasIncomingOption(absl::Span<const std::string> words);

}  // namespace cpr

#endif  // VMM_OPTIONS_OPTIONS_H_
