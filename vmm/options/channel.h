#ifndef VMM_OPTIONS_CHANNEL_H_
#define VMM_OPTIONS_CHANNEL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/json/arg_reader.h"
#include "vmm/json/json.h"

// Where a migration goes to or comes from. What is refused here concerns the address alone; what a mode can do with it
// is MigrationSettings' affair. All functions are thread-safe.

namespace cpr {

enum class Transport { kUnspecified, kFile, kUnix, kTcp, kExec, kFd, kMemfd, kLuo };

// One address. Members that the transport does not use are empty.
struct Address {
  Transport transport = Transport::kUnspecified;
  std::string path;                  // file, unix
  uint64_t offset_bytes = 0;         // file
  std::string host;                  // tcp; may be empty
  std::string port;                  // tcp; number or service
  std::vector<std::string> command;  // exec: argv, never empty
  std::string name;                  // fd: a number, or the name given to getfd; luo: the session

  bool operator==(const Address&) const = default;
};

// Parses file:P[,offset=N], unix:P, tcp:H:PORT, exec:CMD, fd:N, memfd: and luo:SESSION. exec:CMD is run by /bin/sh -c.
// kInvalidArgument: "unknown migration protocol: x", and whatever is wrong with the rest.
absl::StatusOr<Address> ParseUri(absl::string_view uri);

// `address` as a URI, for messages. An exec command that is not sh -c is joined by spaces.
std::string FormatUri(const Address& address);

enum class ChannelType { kUnspecified, kMain, kCpr };

struct Channel {
  ChannelType type = ChannelType::kUnspecified;
  Address address;

  bool operator==(const Channel&) const = default;
};

// A QMP MigrationChannel: {"channel-type": "main"|"cpr", "addr": {"transport": ...}}. `prefix` is what leads to it in
// the request: "channels[0].". Besides QEMU's transports there are "memfd" and "luo" (with "session").
absl::StatusOr<Channel> ChannelFromObject(const JsonObject& object, ArgSource source, absl::string_view prefix = "");

// The channels of one migration.
struct Channels {
  Address main;
  std::optional<Address> cpr;

  bool operator==(const Channels&) const = default;
};

// Sorts `channels` by kind. kInvalidArgument: two of a kind, no main one, a cpr channel that is not unix.
absl::StatusOr<Channels> JoinChannels(absl::Span<const Channel> channels);

}  // namespace cpr

#endif  // VMM_OPTIONS_CHANNEL_H_
