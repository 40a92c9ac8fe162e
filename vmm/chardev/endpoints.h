#ifndef VMM_CHARDEV_ENDPOINTS_H_
#define VMM_CHARDEV_ENDPOINTS_H_

#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"
#include "vmm/chardev/config.h"
#include "vmm/chardev/tty.h"

namespace cpr {

// The descriptors behind a character device. Which of them exist depends on its kind and on whether somebody is
// connected.
struct Endpoints {
  UniqueFd listener;
  UniqueFd in;                  // where input comes from
  UniqueFd out;                 // where output goes; of the same description as `in` for sockets and ptys
  UniqueFd pty_slave;           // held open, so that the pty does not hang up while nobody has it open
  std::string shown;            // "pty:/dev/pts/3": what query-chardev says
  std::optional<TtyModes> tty;  // stdio: the terminal's modes, if they were changed
};

// Names of descriptors that a new VMM takes over.
inline constexpr char kListenerFd[] = "listener";
inline constexpr char kClientFd[] = "client";
inline constexpr char kFileFd[] = "file";
inline constexpr char kPtyFd[] = "pty";

// Opens what `config` asks for. Waits for a client only if `config.wait`. Errors name the path.
absl::StatusOr<Endpoints> OpenEndpoints(const ChardevConfig& config);

// Takes over `fds`, by the names above, instead of opening. Nothing is truncated, bound or connected; a socket may
// come without its client; stdio has none and takes this process's own.
// kFailedPrecondition: an fd is missing, unknown or not of the right type.
absl::StatusOr<Endpoints> AdoptEndpoints(const ChardevConfig& config, std::map<std::string, UniqueFd> fds);

}  // namespace cpr

#endif  // VMM_CHARDEV_ENDPOINTS_H_
