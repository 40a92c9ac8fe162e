#include "vmm/options/chardev.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"
#include "vmm/json/arg_reader.h"
#include "vmm/options/key_values.h"

namespace cpr::vmm {
namespace {

void ReadFile(ArgReader* args, Chardev* chardev) {
  chardev->kind = ChardevKind::kFile;
  chardev->path = args->RequiredString("path");
  chardev->append = args->Bool("append").value_or(false);
}

void ReadSocket(ArgReader* args, Chardev* chardev) {
  chardev->kind = ChardevKind::kUnixSocket;
  chardev->path = args->RequiredString("path");
  chardev->server = args->Bool("server").value_or(false);
  const auto wait = args->Bool("wait");
  if (wait.has_value() && !chardev->server) {
    args->Fail(absl::InvalidArgumentError("'wait' option is incompatible with socket in client connect mode"));
  }
  chardev->wait = wait.value_or(chardev->server);
}

absl::Status CheckPath(const Chardev& chardev) {
  const bool needs_path = chardev.kind == ChardevKind::kFile || chardev.kind == ChardevKind::kUnixSocket;
  if (needs_path && chardev.path.empty()) return absl::InvalidArgumentError("Parameter 'path' is missing");
  if (chardev.kind == ChardevKind::kUnixSocket && chardev.path.size() > 107) {  // sun_path less its NUL
    return absl::InvalidArgumentError(absl::StrCat("UNIX socket path '", chardev.path, "' is too long"));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsIdentifier(absl::string_view id) {
  return !id.empty() && absl::ascii_isalpha(id[0]) && std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
  });
}

absl::StatusOr<Chardev> ParseChardevShorthand(absl::string_view text) {
  absl::string_view rest = text;
  Chardev chardev;
  if (text == "stdio") {
    chardev.kind = ChardevKind::kStdio;
  } else if (text == "none") {
    chardev.kind = ChardevKind::kNone;
  } else if (text == "null") {
    chardev.kind = ChardevKind::kNull;
  } else if (text == "pty") {
    chardev.kind = ChardevKind::kPty;
  } else {
    const bool is_file = absl::ConsumePrefix(&rest, "file:");
    if (!is_file && !absl::ConsumePrefix(&rest, "unix:")) {
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a valid char driver"));
    }
    CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(rest, "path"));
    ArgReader args(object, ArgSource::kKeyValues);
    is_file ? ReadFile(&args, &chardev) : ReadSocket(&args, &chardev);
    CPR_RETURN_IF_ERROR(args.Finish());
  }
  CPR_RETURN_IF_ERROR(CheckPath(chardev));
  return chardev;
}

absl::StatusOr<Chardev> ParseChardev(absl::string_view text) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(text, "backend"));
  ArgReader args(object, ArgSource::kKeyValues);
  Chardev chardev;
  const std::string backend = args.RequiredOneOf("backend", {"null", "stdio", "file", "socket", "pty"});
  chardev.id = args.RequiredString("id");
  if (!chardev.id.empty() && !IsIdentifier(chardev.id)) {
    args.Fail(absl::InvalidArgumentError("Parameter 'id' expects an identifier"));
  }
  if (backend == "null") chardev.kind = ChardevKind::kNull;
  if (backend == "stdio") chardev.kind = ChardevKind::kStdio;
  if (backend == "pty") chardev.kind = ChardevKind::kPty;
  if (backend == "file") ReadFile(&args, &chardev);
  if (backend == "socket") ReadSocket(&args, &chardev);
  CPR_RETURN_IF_ERROR(args.Finish());
  CPR_RETURN_IF_ERROR(CheckPath(chardev));
  return chardev;
}

std::string FormatChardev(const Chardev& chardev) {
  switch (chardev.kind) {
    case ChardevKind::kNone:
      return "none";
    case ChardevKind::kNull:
      return "null";
    case ChardevKind::kStdio:
      return "stdio";
    case ChardevKind::kFile:
      return "file";
    case ChardevKind::kPty:
      return "pty";
    case ChardevKind::kUnixSocket:
      return absl::StrCat("unix:", chardev.path, chardev.server ? ",server=on" : "");
    default:
      return "";
  }
}

}  // namespace cpr::vmm
