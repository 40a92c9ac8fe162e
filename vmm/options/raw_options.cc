#include "vmm/options/raw_options.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"
#include "vmm/json/arg_reader.h"
#include "vmm/options/key_values.h"

namespace cpr {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kPageBytes = 4096;

absl::Status CheckId(absl::string_view id, bool taken, absl::string_view what) {
  if (!taken) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("Duplicate ID '", id, "' for ", what));
}

// "[a-z]+:..." is a URI; a channel's description is anything else.
bool LooksLikeUri(absl::string_view text) {
  const size_t colon = text.find(':');
  return colon != absl::string_view::npos && std::all_of(text.begin(), text.begin() + colon, absl::ascii_isalpha);
}

absl::Status ParseMonitorOption(absl::string_view argument, MonitorOptions::Protocol protocol, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(ChardevOption chardev, ParseChardevShorthand(argument));
  if (chardev.config.kind == ChardevConfig::Kind::kFile || chardev.config.kind == ChardevConfig::Kind::kPty) {
    return absl::InvalidArgumentError("a monitor needs stdio or a unix socket");
  }
  if (chardev.none || chardev.config.kind == ChardevConfig::Kind::kNull) return absl::OkStatus();
  raw->options.monitors.push_back({protocol, std::move(chardev.config)});
  return absl::OkStatus();
}

// The id of an iommufd, or nullopt if the object is another one.
absl::StatusOr<std::optional<std::string>> ParseIommufd(absl::string_view argument) {
  bool is_json = false;
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValuesOrJson(argument, "qom-type", &is_json));
  ArgReader args(object, is_json ? ArgSource::kJson : ArgSource::kKeyValues);
  if (args.String("qom-type") != "iommufd") return std::nullopt;
  const std::string id = args.RequiredString("id");
  if (!IsIdentifier(id)) args.Fail(absl::InvalidArgumentError("Parameter 'id' expects an identifier"));
  CPR_RETURN_IF_ERROR(args.Finish());
  return id;
}

absl::Status CheckObjectId(absl::string_view id, const RawOptions& raw) {
  const auto same = [id](const MemoryBackend& other) { return other.id == id; };
  const bool taken = std::any_of(raw.objects.begin(), raw.objects.end(), same) ||
                     std::find(raw.iommufds.begin(), raw.iommufds.end(), id) != raw.iommufds.end();
  return CheckId(id, taken, "object");
}

absl::Status AddDrive(absl::StatusOr<DriveOption> drive, RawOptions* raw) {
  if (!drive.ok()) return drive.status();
  const auto same = [&](const DriveOption& other) { return other.id == drive->id; };
  CPR_RETURN_IF_ERROR(CheckId(drive->id, std::any_of(raw->drives.begin(), raw->drives.end(), same), "drive"));
  raw->drives.push_back(*std::move(drive));
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseMachine(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(argument, "type"));
  ArgReader args(object, ArgSource::kKeyValues);
  Options& options = raw->options;
  if (const auto type = args.String("type")) {
    if (*type != "q35" && *type != "pc" && *type != "microvm") {
      args.Fail(absl::InvalidArgumentError(
          absl::StrCat("unsupported machine type: '", *type, "'; there are q35, pc and microvm")));
    }
    options.machine_type = type;
  }
  if (const auto accel = args.String("accel")) args.Fail(ParseAccel(*accel, raw));
  if (const auto id = args.String("memory-backend")) raw->memory_backend_id = id;
  for (const absl::string_view name : {"memfd-alloc", "aux-ram-share"}) {
    if (const auto share = args.Bool(name)) options.aux_ram_share = share;
  }
  if (const auto kind = args.OneOf("kernel-irqchip", {"on", "split"})) {
    options.irqchip = *kind == "on" ? IrqchipKind::kKernel : IrqchipKind::kSplit;
  }
  return args.Finish();
}

absl::Status ParseAccel(absl::string_view argument, RawOptions*) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(argument, "accel"));
  ArgReader args(object, ArgSource::kKeyValues);
  const std::string accel = args.RequiredString("accel");
  CPR_RETURN_IF_ERROR(args.Finish());
  if (accel == "kvm") return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("invalid accelerator ", accel, "; there is only kvm"));
}

absl::Status ParseCpu(absl::string_view argument, RawOptions*) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(argument, "model"));
  ArgReader args(object, ArgSource::kKeyValues);
  const std::string model = args.RequiredString("model");
  CPR_RETURN_IF_ERROR(args.Finish());
  if (model == "host") return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("unable to find CPU model '", model, "'; there is only host"));
}

absl::Status ParseSmp(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(argument, "cpus"));
  ArgReader args(object, ArgSource::kKeyValues, "smp.");
  const auto cpus = args.Integer("cpus");
  if (!cpus.has_value()) args.FailMissing("cpus");
  CPR_RETURN_IF_ERROR(args.Finish());
  if (*cpus == 0) {
    return absl::InvalidArgumentError("Invalid CPU topology: CPU topology parameters must be greater than zero");
  }
  if (*cpus > kMaxVcpus) {
    return absl::InvalidArgumentError(
        absl::StrFormat("Invalid SMP CPUs %d. The max CPUs supported by machine '%s' is %d", *cpus,
                        raw->options.machine_type.value_or("q35"), kMaxVcpus));
  }
  raw->options.vcpus = static_cast<unsigned>(*cpus);
  return absl::OkStatus();
}

absl::Status ParseMemorySize(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(argument, "size"));
  ArgReader args(object, ArgSource::kKeyValues);
  const auto size_bytes = args.Size("size", kMiB);
  if (!size_bytes.has_value()) args.FailMissing("size");
  CPR_RETURN_IF_ERROR(args.Finish());
  if (*size_bytes == 0) return absl::InvalidArgumentError("Parameter 'size' expects a size above 0");
  if (*size_bytes % kPageBytes != 0) {
    return absl::InvalidArgumentError("Parameter 'size' expects a multiple of the page size");
  }
  raw->options.memory_bytes = size_bytes;
  return absl::OkStatus();
}

absl::Status ParseObject(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(const std::optional<std::string> iommufd, ParseIommufd(argument));
  if (iommufd.has_value()) {
    CPR_RETURN_IF_ERROR(CheckObjectId(*iommufd, *raw));
    raw->iommufds.push_back(*iommufd);
    return absl::OkStatus();
  }
  CPR_ASSIGN_OR_RETURN(MemoryBackend backend, ParseMemoryBackend(argument));
  CPR_RETURN_IF_ERROR(CheckObjectId(backend.id, *raw));
  raw->objects.push_back(std::move(backend));
  return absl::OkStatus();
}

absl::Status ParseSerial(absl::string_view argument, RawOptions* raw) {
  if (raw->serial_given) return absl::InvalidArgumentError("too many serial ports");
  raw->serial_given = true;
  absl::string_view id = argument;
  if (absl::ConsumePrefix(&id, "chardev:")) {
    raw->serial_chardev_id = std::string(id);
    return absl::OkStatus();
  }
  CPR_ASSIGN_OR_RETURN(raw->options.serial, ParseChardevShorthand(argument));
  return absl::OkStatus();
}

absl::Status ParseChardevOption(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(ChardevOption chardev, ParseChardev(argument));
  const auto same = [&](const ChardevOption& other) { return other.id == chardev.id; };
  const bool taken = std::any_of(raw->chardevs.begin(), raw->chardevs.end(), same);
  CPR_RETURN_IF_ERROR(CheckId(chardev.id, taken, "chardev"));
  raw->chardevs.push_back(std::move(chardev));
  return absl::OkStatus();
}

absl::Status ParseDriveOption(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(DriveOption drive, ParseDrive(argument));
  if (drive.id.empty()) {
    const auto of_its_own = [](const DriveOption& other) { return other.own_device; };
    drive.id = absl::StrCat("virtio", std::count_if(raw->drives.begin(), raw->drives.end(), of_its_own));
  }
  return AddDrive(std::move(drive), raw);
}

absl::Status ParseBlockdevOption(absl::string_view argument, RawOptions* raw) {
  return AddDrive(ParseBlockdev(argument), raw);
}

absl::Status ParseNetdevOption(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(NetdevOption netdev, ParseNetdev(argument));
  const auto same = [&](const NetdevOption& other) { return other.id == netdev.id; };
  CPR_RETURN_IF_ERROR(CheckId(netdev.id, std::any_of(raw->netdevs.begin(), raw->netdevs.end(), same), "netdev"));
  raw->netdevs.push_back(std::move(netdev));
  return absl::OkStatus();
}

absl::Status ParseDeviceOption(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(raw->devices.emplace_back(), ParseDevice(argument));
  return absl::OkStatus();
}

absl::Status ParseQmp(absl::string_view argument, RawOptions* raw) {
  return ParseMonitorOption(argument, MonitorOptions::Protocol::kQmp, raw);
}

absl::Status ParseMonitor(absl::string_view argument, RawOptions* raw) {
  return ParseMonitorOption(argument, MonitorOptions::Protocol::kHmp, raw);
}

absl::Status ParseIncoming(absl::string_view argument, RawOptions* raw) {
  if (argument == "defer") {
    raw->incoming_deferred = true;
    return absl::OkStatus();
  }
  Channel channel{.type = ChannelType::kMain};
  if (LooksLikeUri(argument)) {
    CPR_ASSIGN_OR_RETURN(channel.address, ParseUri(argument));
  } else {
    bool is_json = false;
    CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValuesOrJson(argument, "channel-type", &is_json));
    CPR_ASSIGN_OR_RETURN(channel, ChannelFromObject(object, is_json ? ArgSource::kJson : ArgSource::kKeyValues));
  }
  raw->incoming_channels.push_back(std::move(channel));
  return absl::OkStatus();
}

absl::Status ParseName(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(argument, "guest"));
  ArgReader args(object, ArgSource::kKeyValues);
  raw->options.name = args.RequiredString("guest");
  return args.Finish();
}

bool IsUuid(absl::string_view text) {
  const auto fits = [text](size_t i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    return dash ? text[i] == '-' : absl::ascii_isxdigit(text[i]);
  };
  bool ok = text.size() == 36;
  for (size_t i = 0; ok && i < text.size(); ++i) ok = fits(i);
  return ok;
}

absl::Status ParseUuid(absl::string_view argument, RawOptions* raw) {
  if (!IsUuid(argument)) return absl::InvalidArgumentError("failed to parse UUID string: wrong format");
  raw->options.uuid = absl::AsciiStrToLower(argument);
  return absl::OkStatus();
}

absl::Status ParseSandbox(absl::string_view argument, RawOptions* raw) {
  CPR_ASSIGN_OR_RETURN(const JsonObject object, ParseKeyValues(argument, "enable"));
  ArgReader args(object, ArgSource::kKeyValues);
  SandboxOption& sandbox = raw->options.sandbox;
  sandbox.on = args.Bool("enable").value_or(false);
  sandbox.spawn = args.OneOf("spawn", {"allow", "deny"}).value_or("allow") == "allow";
  sandbox.resource_control = args.OneOf("resourcecontrol", {"allow", "deny"}).value_or("allow") == "allow";
  // What these deny is always denied, and cannot be had back.
  const auto obsolete = args.OneOf("obsolete", {"allow", "deny"});
  const auto elevate = args.OneOf("elevateprivileges", {"allow", "deny", "children"});
  CPR_RETURN_IF_ERROR(args.Finish());
  if (obsolete == "allow") return absl::InvalidArgumentError("obsolete system calls are on no list here");
  if (elevate == "allow") {
    return absl::InvalidArgumentError("under a sandbox privileges are never gained here");
  }
  return absl::OkStatus();
}

absl::Status ParseDisplay(absl::string_view argument, RawOptions*) {
  if (argument == "none") return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("Parameter 'type' does not accept value '", argument, "'"));
}

}  // namespace cpr
