#ifndef VMM_CHARDEV_CONFIG_H_
#define VMM_CHARDEV_CONFIG_H_

#include <string>

namespace cpr {

// What `-serial` and `-chardev` ask for.
struct ChardevConfig {
  enum class Kind { kUnspecified, kNull, kStdio, kFile, kSocket, kPty };
  Kind kind = Kind::kUnspecified;
  std::string path;     // kFile, kSocket (unix)
  bool server = false;  // kSocket: listen at `path`; otherwise connect to it
  bool wait = false;    // kSocket with server: creating the device waits for the first client
  bool append = false;  // kFile: keep what is in it. A VMM that takes over a guest without its fds sets this.

  friend bool operator==(const ChardevConfig&, const ChardevConfig&) = default;
};

}  // namespace cpr

#endif  // VMM_CHARDEV_CONFIG_H_
