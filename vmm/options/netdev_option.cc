#include "vmm/options/netdev_option.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libcpr/base/status_macros.h"
#include "vmm/json/arg_reader.h"
#include "vmm/options/key_values.h"

namespace cpr {
namespace {

constexpr size_t kMaxInterfaceName = 15;  // IFNAMSIZ less its NUL

absl::Status Invalid(const std::string& text) { return absl::InvalidArgumentError(text); }

// An fd's.
int ReadNumber(const std::string& text, ArgReader* args) {
  int fd = -1;
  if (!absl::SimpleAtoi(text, &fd) || fd < 0) {
    args->Fail(Invalid(absl::StrCat("File descriptor named '", text, "' has not been found")));
  }
  return fd;
}

void ReadFd(const std::string& text, ArgReader* args, NetdevOption* netdev) {
  if (!netdev->interface.empty() || args->String("script").has_value() || args->String("downscript").has_value()) {
    args->Fail(Invalid(
        "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are invalid with fd="));
  }
  netdev->fd = ReadNumber(text, args);
}

// As in QEMU an fd asks for vhost by itself.
void ReadVhost(ArgReader* args, NetdevOption* netdev) {
  const std::optional<bool> vhost = args->Bool("vhost");
  const std::optional<std::string> fd = args->String("vhostfd");
  netdev->vhost = vhost.value_or(fd.has_value());
  if (!fd.has_value()) return;
  if (!netdev->vhost) args->Fail(Invalid("vhostfd(s)= is not valid without vhost"));
  netdev->vhost_fd = ReadNumber(*fd, args);
}

void ReadScripts(ArgReader* args) {
  for (const char* name : {"script", "downscript"}) {
    if (args->String(name) == "no") continue;
    args->Fail(Invalid(absl::StrCat("scripts are not run here: ", name, "=no is needed")));
  }
}

}  // namespace

absl::StatusOr<NetdevOption> ParseNetdev(absl::string_view argument) {
  bool is_json = false;
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValuesOrJson(argument, "type", &is_json));
  ArgReader args(object, is_json ? ArgSource::kJson : ArgSource::kKeyValues);
  NetdevOption netdev;
  args.RequiredOneOf("type", {"tap"});
  netdev.id = args.RequiredString("id");
  netdev.interface = args.String("ifname").value_or("");
  if (netdev.interface.size() > kMaxInterfaceName) {
    args.Fail(Invalid(absl::StrCat("Parameter 'ifname' expects at most ", kMaxInterfaceName, " bytes")));
  }
  ReadVhost(&args, &netdev);
  if (const auto fd = args.String("fd")) {
    ReadFd(*fd, &args, &netdev);
  } else {
    ReadScripts(&args);
  }
  CPR_RETURN_IF_ERROR(args.Finish());
  return netdev;
}

std::optional<MacAddress> ParseMac(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::ByAnyChar(":-"));
  MacAddress mac;
  if (parts.size() != mac.size()) return std::nullopt;
  for (size_t i = 0; i < mac.size(); ++i) {
    uint32_t byte;
    if (parts[i].size() != 2 || !absl::SimpleHexAtoi(parts[i], &byte)) return std::nullopt;
    mac[i] = static_cast<uint8_t>(byte);
  }
  return (mac[0] & 1) == 0 ? std::make_optional(mac) : std::nullopt;
}

}  // namespace cpr
