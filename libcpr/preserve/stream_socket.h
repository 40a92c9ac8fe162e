#ifndef LIBCPR_PRESERVE_STREAM_SOCKET_H_
#define LIBCPR_PRESERVE_STREAM_SOCKET_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"

// Stream sockets for the main channel, all non-blocking and CLOEXEC. Hosts are numeric addresses, "localhost", or
// "" and "0" (any address when listening, loopback when connecting): names are not resolved, because programs that
// embed this are linked statically. Port 0 is refused, as a peer could not know it. Thread-safe.

namespace cpr {

// Listens at `path` (mode 0600, a stale socket replaced; see PacketSocket::Listen) or at `host`:`port`.
// kInvalidArgument: no such address.
absl::StatusOr<UniqueFd> ListenUnixStream(const std::string& path);
absl::StatusOr<UniqueFd> ListenTcp(const std::string& host, uint16_t port);

// The next connection. kUnavailable: nobody waits. On a unix socket kPermissionDenied: the peer is neither of our uid
// nor root.
absl::StatusOr<UniqueFd> AcceptStream(int listener);

// Connects; over TCP the connection may still be under way: poll for writing, then call FinishConnect.
// kUnavailable (unix): nobody listens there yet.
absl::StatusOr<UniqueFd> ConnectUnixStream(const std::string& path);
absl::StatusOr<UniqueFd> ConnectTcp(const std::string& host, uint16_t port);

// How the connect of `fd` (lent), which polls writable, ended. kUnavailable: nobody listens there.
absl::Status FinishConnect(int fd);

}  // namespace cpr

#endif  // LIBCPR_PRESERVE_STREAM_SOCKET_H_
