#ifndef LIBCPR_PRESERVE_UNIX_ADDRESS_H_
#define LIBCPR_PRESERVE_UNIX_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"

// Unix sockets by path, of either type; what PacketSocket and the stream functions have in common.

namespace cpr::internal {

// A non-blocking socket of `type` that listens at `path`, as PacketSocket::Listen says.
absl::StatusOr<UniqueFd> ListenAtPath(const std::string& path, int type);

// A non-blocking socket of `type` connected to `path`. kUnavailable: nobody listens, or the queue is full.
absl::StatusOr<UniqueFd> ConnectToPath(const std::string& path, int type);

// The next connection, non-blocking. kUnavailable: nobody waits.
absl::StatusOr<UniqueFd> AcceptNonblocking(int listener);

}  // namespace cpr::internal

#endif  // LIBCPR_PRESERVE_UNIX_ADDRESS_H_
