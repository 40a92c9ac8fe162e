#include "vmm/options/chardev_option.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"
#include "vmm/json/arg_reader.h"
#include "vmm/options/key_values.h"

namespace cpr {
namespace {

void ReadFile(ArgReader* args, ChardevConfig* config) {
  config->kind = ChardevConfig::Kind::kFile;
  config->path = args->RequiredString("path");
  config->append = args->Bool("append").value_or(false);
}

void ReadSocket(ArgReader* args, ChardevConfig* config) {
  config->kind = ChardevConfig::Kind::kSocket;
  config->path = args->RequiredString("path");
  config->server = args->Bool("server").value_or(false);
  const auto wait = args->Bool("wait");
  if (wait.has_value() && !config->server) {
    args->Fail(absl::InvalidArgumentError("'wait' option is incompatible with socket in client connect mode"));
  }
  config->wait = wait.value_or(config->server);
}

absl::Status CheckPath(const ChardevConfig& config) {
  const bool needs_path = config.kind == ChardevConfig::Kind::kFile || config.kind == ChardevConfig::Kind::kSocket;
  if (needs_path && config.path.empty()) return absl::InvalidArgumentError("Parameter 'path' is missing");
  if (config.kind == ChardevConfig::Kind::kSocket && config.path.size() > 107) {  // sun_path less its NUL
    return absl::InvalidArgumentError(absl::StrCat("UNIX socket path '", config.path, "' is too long"));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsIdentifier(absl::string_view id) {
  return !id.empty() && absl::ascii_isalpha(id[0]) && std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
  });
}

absl::StatusOr<ChardevOption> ParseChardevShorthand(absl::string_view text) {
  absl::string_view rest = text;
  ChardevOption chardev;
  if (text == "stdio") {
    chardev.config.kind = ChardevConfig::Kind::kStdio;
  } else if (text == "none") {
    chardev.none = true;
  } else if (text == "null") {
    chardev.config.kind = ChardevConfig::Kind::kNull;
  } else if (text == "pty") {
    chardev.config.kind = ChardevConfig::Kind::kPty;
  } else {
    const bool is_file = absl::ConsumePrefix(&rest, "file:");
    if (!is_file && !absl::ConsumePrefix(&rest, "unix:")) {
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a valid char driver"));
    }
    CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(rest, "path"));
    ArgReader args(object, ArgSource::kKeyValues);
    is_file ? ReadFile(&args, &chardev.config) : ReadSocket(&args, &chardev.config);
    CPR_RETURN_IF_ERROR(args.Finish());
  }
  CPR_RETURN_IF_ERROR(CheckPath(chardev.config));
  return chardev;
}

absl::StatusOr<ChardevOption> ParseChardev(absl::string_view text) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(text, "backend"));
  ArgReader args(object, ArgSource::kKeyValues);
  ChardevOption chardev;
  const std::string backend = args.RequiredOneOf("backend", {"null", "stdio", "file", "socket", "pty"});
  chardev.id = args.RequiredString("id");
  if (!chardev.id.empty() && !IsIdentifier(chardev.id)) {
    args.Fail(absl::InvalidArgumentError("Parameter 'id' expects an identifier"));
  }
  if (backend == "null") chardev.config.kind = ChardevConfig::Kind::kNull;
  if (backend == "stdio") chardev.config.kind = ChardevConfig::Kind::kStdio;
  if (backend == "pty") chardev.config.kind = ChardevConfig::Kind::kPty;
  if (backend == "file") ReadFile(&args, &chardev.config);
  if (backend == "socket") ReadSocket(&args, &chardev.config);
  CPR_RETURN_IF_ERROR(args.Finish());
  CPR_RETURN_IF_ERROR(CheckPath(chardev.config));
  return chardev;
}

}  // namespace cpr
