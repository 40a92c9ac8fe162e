#include "vmm/options/channel.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

absl::Status Missing(absl::string_view uri, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("migration URI '", uri, "' lacks ", what));
}

absl::StatusOr<Address> ParseFileUri(absl::string_view path) {
  constexpr absl::string_view kOffset = ",offset=";
  Address address{Transport::kFile};
  if (const size_t at = path.find(kOffset); at != absl::string_view::npos) {
    const absl::string_view text = path.substr(at + kOffset.size());
    const auto offset_bytes = ParseSize(text);
    if (!offset_bytes.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("file URI has bad offset ", text));
    }
    address.offset_bytes = *offset_bytes;
    path = path.substr(0, at);
  }
  address.path = std::string(path);
  return address;
}

// "H:PORT", "[V6]:PORT" or ":PORT".
absl::StatusOr<Address> ParseTcpUri(absl::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("error parsing address '", text, "'"));
  }
  absl::string_view host = text.substr(0, colon);
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) host = host.substr(1, host.size() - 2);
  Address address{Transport::kTcp};
  address.host = std::string(host);
  address.port = std::string(text.substr(colon + 1));
  if (address.port.find_first_of(",/ ") != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("error parsing address '", text, "'"));
  }
  return address;
}

Address ShellCommand(absl::string_view command) {
  Address address{Transport::kExec};
  address.command = {"/bin/sh", "-c", std::string(command)};
  return address;
}

Address SocketFromArgs(ArgReader* args) {
  Address address;
  const std::string type = args->RequiredOneOf("type", {"inet", "unix", "fd"});
  if (type == "inet") {
    address.transport = Transport::kTcp;
    address.host = args->RequiredString("host");
    address.port = args->RequiredString("port");
  } else if (type == "unix") {
    address.transport = Transport::kUnix;
    address.path = args->RequiredString("path");
  } else if (type == "fd") {
    address.transport = Transport::kFd;
    address.name = args->RequiredString("str");
  }
  return address;
}

absl::StatusOr<Address> AddressFromObject(const JsonObject& object, ArgSource source, absl::string_view prefix) {
  ArgReader args(object, source, prefix);
  Address address;
  const std::string transport = args.RequiredOneOf("transport", {"socket", "exec", "file", "memfd", "luo"});
  if (transport == "socket") {
    address = SocketFromArgs(&args);
  } else if (transport == "exec") {
    address.transport = Transport::kExec;
    address.command = args.StringList("args").value_or(std::vector<std::string>());
    if (address.command.empty()) args.FailMissing("args");
  } else if (transport == "file") {
    address.transport = Transport::kFile;
    address.path = args.RequiredString("filename");
    address.offset_bytes = args.Size("offset").value_or(0);
  } else if (transport == "memfd") {
    address.transport = Transport::kMemfd;
  } else if (transport == "luo") {
    address.transport = Transport::kLuo;
    address.name = args.RequiredString("session");
  }
  CPR_RETURN_IF_ERROR(args.Finish());
  return address;
}

absl::Status CheckAddress(const Address& address) {
  const std::string uri = FormatUri(address);
  switch (address.transport) {
    case Transport::kFile:
    case Transport::kUnix:
      return address.path.empty() ? Missing(uri, "a path") : absl::OkStatus();
    case Transport::kTcp:
      return address.port.empty() ? Missing(uri, "a port") : absl::OkStatus();
    case Transport::kExec:
      return address.command.back().empty() ? Missing(uri, "a command") : absl::OkStatus();
    case Transport::kFd:
      return address.name.empty() ? Missing(uri, "a file descriptor") : absl::OkStatus();
    case Transport::kLuo:
      return address.name.empty() ? Missing(uri, "a session") : absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

absl::StatusOr<Address> ParseUnchecked(absl::string_view uri) {
  absl::string_view rest = uri;
  if (absl::ConsumePrefix(&rest, "file:")) return ParseFileUri(rest);
  if (absl::ConsumePrefix(&rest, "unix:")) return Address{.transport = Transport::kUnix, .path = std::string(rest)};
  if (absl::ConsumePrefix(&rest, "tcp:")) return ParseTcpUri(rest);
  if (absl::ConsumePrefix(&rest, "exec:")) return ShellCommand(rest);
  if (absl::ConsumePrefix(&rest, "fd:")) return Address{.transport = Transport::kFd, .name = std::string(rest)};
  if (absl::ConsumePrefix(&rest, "luo:")) return Address{.transport = Transport::kLuo, .name = std::string(rest)};
  if (rest == "memfd:") return Address{.transport = Transport::kMemfd};
  return absl::InvalidArgumentError(absl::StrCat("unknown migration protocol: ", uri));
}

}  // namespace

absl::StatusOr<Address> ParseUri(absl::string_view uri) {
  CPR_ASSIGN_OR_RETURN(Address address, ParseUnchecked(uri));
  CPR_RETURN_IF_ERROR(CheckAddress(address));
  return address;
}

std::string FormatUri(const Address& address) {
  const auto& command = address.command;
  switch (address.transport) {
    case Transport::kFile:
      if (address.offset_bytes == 0) return absl::StrCat("file:", address.path);
      return absl::StrCat("file:", address.path, ",offset=", address.offset_bytes);
    case Transport::kUnix:
      return absl::StrCat("unix:", address.path);
    case Transport::kTcp:
      if (absl::StrContains(address.host, ":")) return absl::StrCat("tcp:[", address.host, "]:", address.port);
      return absl::StrCat("tcp:", address.host, ":", address.port);
    case Transport::kExec:
      if (command.size() == 3 && command[0] == "/bin/sh" && command[1] == "-c")
        return absl::StrCat("exec:", command[2]);
      return absl::StrCat("exec:", absl::StrJoin(command, " "));
    case Transport::kFd:
      return absl::StrCat("fd:", address.name);
    case Transport::kMemfd:
      return "memfd:";
    case Transport::kLuo:
      return absl::StrCat("luo:", address.name);
    default:
      return "";
  }
}

absl::StatusOr<Channel> ChannelFromObject(const JsonObject& object, ArgSource source, absl::string_view prefix) {
  ArgReader args(object, source, prefix);
  Channel channel;
  const std::string type = args.RequiredOneOf("channel-type", {"main", "cpr"});
  channel.type = type == "cpr" ? ChannelType::kCpr : ChannelType::kMain;
  const JsonObject* address = args.RequiredObject("addr");
  CPR_RETURN_IF_ERROR(args.Finish());
  CPR_ASSIGN_OR_RETURN(channel.address, AddressFromObject(*address, source, args.FullName("addr.")));
  CPR_RETURN_IF_ERROR(CheckAddress(channel.address));
  return channel;
}

absl::StatusOr<Channels> JoinChannels(absl::Span<const Channel> channels) {
  std::optional<Address> main;
  std::optional<Address> cpr;
  for (const Channel& channel : channels) {
    const bool is_cpr = channel.type == ChannelType::kCpr;
    auto& slot = is_cpr ? cpr : main;
    if (slot.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("Channel list has more than one ", is_cpr ? "cpr" : "main", " entry"));
    }
    slot = channel.address;
  }
  if (!main.has_value()) return absl::InvalidArgumentError("Channel list has no main entry");
  if (cpr.has_value() && cpr->transport != Transport::kUnix) {
    return absl::InvalidArgumentError("bad cpr channel address; must be unix");
  }
  return Channels{*std::move(main), std::move(cpr)};
}

}  // namespace cpr
