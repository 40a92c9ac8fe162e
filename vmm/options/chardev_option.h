#ifndef VMM_OPTIONS_CHARDEV_OPTION_H_
#define VMM_OPTIONS_CHARDEV_OPTION_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/chardev/config.h"

namespace cpr {

// What stands behind a serial port or a monitor.
struct ChardevOption {
  std::string id;     // with -chardev
  bool none = false;  // "none": there is no device at all, and `config` is empty
  ChardevConfig config;

  bool operator==(const ChardevOption&) const = default;
};

// Parses the argument of -serial, -qmp and -monitor: stdio, none, null, pty, file:P[,append=on], unix:P[,server=on]
// [,wait=off]. (chardev:ID is -serial's own.) kInvalidArgument names what is wrong. Thread-safe.
absl::StatusOr<ChardevOption> ParseChardevShorthand(absl::string_view text);

// Parses the argument of -chardev: null|stdio|file|socket|pty,id=ID,... Thread-safe.
absl::StatusOr<ChardevOption> ParseChardev(absl::string_view text);

// QEMU's rule for ids: a letter, then letters, digits, '-', '.' and '_'.
bool IsIdentifier(absl::string_view id);

}  // namespace cpr

#endif  // VMM_OPTIONS_CHARDEV_OPTION_H_
