#ifndef VMM_OPTIONS_NETDEV_OPTION_H_
#define VMM_OPTIONS_NETDEV_OPTION_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/virtio/config.h"

namespace cpr {

// What -netdev describes: a tap, by name or fd.
struct NetdevOption {
  std::string id;
  std::string interface;  // empty: `fd` knows, or the kernel finds a name
  int fd = -1;
  bool vhost = false;
  int vhost_fd = -1;  // of /dev/vhost-net, in this process; -1: to be opened
};

// Parses the option's argument. Scripts are not run: with a name, both must be switched off. kInvalidArgument with
// QEMU's text where it has one. Thread-safe.
absl::StatusOr<NetdevOption> ParseNetdev(absl::string_view argument);

// "52:54:00:12:34:56", or with dashes. nullopt: is none, or is a group's. Thread-safe.
std::optional<MacAddress> ParseMac(absl::string_view text);

}  // namespace cpr

#endif  // VMM_OPTIONS_NETDEV_OPTION_H_
