#ifndef VMM_OPTIONS_RAW_OPTIONS_H_
#define VMM_OPTIONS_RAW_OPTIONS_H_

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/options/device_option.h"
#include "vmm/options/options.h"

// One parser for each option, and what they collect before names are resolved. Only options.cc uses this.

namespace cpr {

struct RawOptions {
  Options options;
  std::optional<std::string> memory_backend_id;  // -machine memory-backend=
  std::optional<std::string> serial_chardev_id;  // -serial chardev:
  bool serial_given = false;
  std::vector<MemoryBackend> objects;
  std::vector<std::string> iommufds;  // ids of -object iommufd
  std::vector<ChardevOption> chardevs;
  std::set<std::string> used_chardevs;  // ids
  std::vector<DriveOption> drives;      // -drive and -blockdev
  std::vector<NetdevOption> netdevs;
  std::vector<DeviceOption> devices;  // of -device
  bool incoming_deferred = false;
  std::vector<Channel> incoming_channels;
};

absl::Status ParseMachine(absl::string_view argument, RawOptions* raw);
absl::Status ParseAccel(absl::string_view argument, RawOptions* raw);
absl::Status ParseCpu(absl::string_view argument, RawOptions* raw);
absl::Status ParseSmp(absl::string_view argument, RawOptions* raw);
absl::Status ParseMemorySize(absl::string_view argument, RawOptions* raw);
absl::Status ParseObject(absl::string_view argument, RawOptions* raw);
absl::Status ParseSerial(absl::string_view argument, RawOptions* raw);
absl::Status ParseChardevOption(absl::string_view argument, RawOptions* raw);
absl::Status ParseDriveOption(absl::string_view argument, RawOptions* raw);
absl::Status ParseBlockdevOption(absl::string_view argument, RawOptions* raw);
absl::Status ParseNetdevOption(absl::string_view argument, RawOptions* raw);
absl::Status ParseDeviceOption(absl::string_view argument, RawOptions* raw);
absl::Status ParseQmp(absl::string_view argument, RawOptions* raw);
absl::Status ParseMonitor(absl::string_view argument, RawOptions* raw);
absl::Status ParseIncoming(absl::string_view argument, RawOptions* raw);
absl::Status ParseName(absl::string_view argument, RawOptions* raw);
absl::Status ParseUuid(absl::string_view argument, RawOptions* raw);
absl::Status ParseSandbox(absl::string_view argument, RawOptions* raw);
absl::Status ParseDisplay(absl::string_view argument, RawOptions* raw);

// Joins names with what they name and refuses what does not fit together: an object, a drive, a netdev or a chardev
// that nothing uses, sizes that differ, stdio used twice, nothing to boot.
absl::Status ResolveOptions(RawOptions* raw);

}  // namespace cpr

#endif  // VMM_OPTIONS_RAW_OPTIONS_H_
