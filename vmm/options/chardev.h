#ifndef VMM_OPTIONS_CHARDEV_H_
#define VMM_OPTIONS_CHARDEV_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr::vmm {

// kNone: there is no device at all. kNull: there is one, its output is dropped.
enum class ChardevKind { kUnspecified, kNone, kNull, kStdio, kFile, kUnixSocket, kPty };

// What stands behind a serial port or a monitor.
struct Chardev {
  ChardevKind kind = ChardevKind::kUnspecified;
  std::string id;       // with -chardev
  std::string path;     // kFile, kUnixSocket
  bool append = false;  // kFile: keep what is in the file
  bool server = false;  // kUnixSocket: listen rather than connect
  bool wait = false;    // kUnixSocket, server: let nothing run until a client is there

  bool operator==(const Chardev&) const = default;
};

// Parses the argument of -serial, -qmp and -monitor: stdio, none, null, pty, file:P[,append=on], unix:P[,server=on]
// [,wait=off]. (chardev:ID is -serial's own.) kInvalidArgument names what is wrong. Thread-safe.
absl::StatusOr<Chardev> ParseChardevShorthand(absl::string_view text);

// Parses the argument of -chardev: null|stdio|file|socket|pty,id=ID,... Thread-safe.
absl::StatusOr<Chardev> ParseChardev(absl::string_view text);

// As query-chardev shows it: "unix:/tmp/x,server=on", "file", "stdio".
std::string FormatChardev(const Chardev& chardev);

// QEMU's rule for ids: a letter, then letters, digits, '-', '.' and '_'.
bool IsIdentifier(absl::string_view id);

}  // namespace cpr::vmm

#endif  // VMM_OPTIONS_CHARDEV_H_
