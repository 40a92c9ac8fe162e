#include "vmm/options/options.h"

#include <algorithm>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/options/key_values.h"
#include "vmm/options/raw_options.h"
#include "vmm/options/version.h"

namespace cpr {
namespace {

struct OptionEntry {
  absl::string_view name;
  absl::string_view argument;  // empty: takes none
  absl::Status (*parse)(absl::string_view argument, RawOptions* raw);
  absl::string_view help;
};

template <std::optional<std::string> Options::*kMember>
absl::Status StoreText(absl::string_view argument, RawOptions* raw) {
  raw->options.*kMember = std::string(argument);
  return absl::OkStatus();
}

template <bool Options::*kMember>
absl::Status SetFlag(absl::string_view, RawOptions* raw) {
  raw->options.*kMember = true;
  return absl::OkStatus();
}

absl::Status Ignore(absl::string_view, RawOptions*) { return absl::OkStatus(); }

constexpr OptionEntry kOptions[] = {
    {"machine", "TYPE[,memory-backend=ID][,aux-ram-share=on|off][,kernel-irqchip=on|split]", &ParseMachine,
     "the machine: q35, pc and microvm are names of the same one"},
    {"M", "TYPE[,...]", &ParseMachine, "as -machine"},
    {"accel", "kvm", &ParseAccel, "KVM is the only accelerator"},
    {"enable-kvm", "", &Ignore, "as -accel kvm"},
    {"cpu", "host", &ParseCpu, "the host's CPU is the only model"},
    {"smp", "[cpus=]N", &ParseSmp, "number of vCPUs, 1 to 64 (1)"},
    {"m", "[size=]SIZE", &ParseMemorySize,
     "RAM, in MiB or with a suffix (128M); a shared memfd unless an -object says else"},
    {"object",
     "memory-backend-file|memory-backend-memfd|memory-backend-ram,id=ID,size=SIZE[,share=on|off][,...] or "
     "iommufd,id=ID",
     &ParseObject,
     "where RAM comes from: mem-path=, align=; hugetlb=, hugetlbsize=; prealloc=; or what a vfio-pci does DMA through"},
    {"kernel", "FILE", &StoreText<&Options::kernel>, "PVH ELF kernel to boot"},
    {"initrd", "FILE", &StoreText<&Options::initrd>, "initial RAM disk"},
    {"append", "TEXT", &StoreText<&Options::append>, "the kernel's command line"},
    {"serial", "stdio|file:P|unix:P[,server=on,wait=off]|pty|null|none|chardev:ID", &ParseSerial, "the serial port"},
    {"chardev", "socket|file|stdio|pty|null,id=ID[,...]", &ParseChardevOption,
     "a character device for -serial chardev:ID or a virtserialport"},
    {"drive", "if=none|virtio,file=P[,id=ID][,format=raw][,readonly=on|off]", &ParseDriveOption,
     "a disk image for a virtio-blk-pci; if=virtio makes that, too"},
    {"blockdev", "file|host_device,node-name=ID,filename=P[,read-only=on|off] or raw,node-name=ID,file=ID",
     &ParseBlockdevOption, "the same, as a node of QEMU's block layer"},
    {"netdev", "tap,id=ID,ifname=NAME,script=no,downscript=no or tap,id=ID,fd=N, either [,vhost=on|off][,vhostfd=N]",
     &ParseNetdevOption, "the host's end of a virtio-net-pci"},
    {"device",
     "virtio-blk-pci,drive=ID[,serial=TEXT]|virtio-net-pci,netdev=ID[,mac=MAC]|virtio-serial-pci|virtio-rng-pci"
     "|vfio-pci,host=[DOMAIN:]BUS:DEVICE.FUNCTION[,iommufd=ID][,id=ID][,addr=SLOT]",
     &ParseDeviceOption,
     "a PCI device; also virtserialport,chardev=ID[,name=NAME][,bus=ID.0], a port of virtio-serial-pci"},
    {"qmp", "unix:P,server=on,wait=off|stdio", &ParseQmp, "a QMP monitor"},
    {"monitor", "stdio|unix:P,server=on,wait=off|none", &ParseMonitor, "a human monitor"},
    {"incoming", "URI|defer|CHANNEL", &ParseIncoming, "take over a machine; a second one gives the cpr channel"},
    {"S", "", &SetFlag<&Options::start_paused>, "do not start the vCPUs, also those of a machine that arrives"},
    {"name", "NAME", &ParseName, "the machine's name"},
    {"uuid", "UUID", &ParseUuid, "the machine's UUID"},
    {"pidfile", "FILE", &StoreText<&Options::pidfile>, "write the PID there"},
    {"D", "FILE", &StoreText<&Options::log_file>, "write the log there"},
    {"sandbox", "on|off[,spawn=allow|deny][,resourcecontrol=allow|deny]", &ParseSandbox,
     "make no system calls but those needed, and gain no privileges, once the machine is up"},
    {"nodefaults", "", &SetFlag<&Options::nodefaults>, "no device that was not asked for"},
    {"no-user-config", "", &Ignore, "accepted; there is none"},
    {"nographic", "", &SetFlag<&Options::nographic>, "serial port on stdio unless given otherwise"},
    {"display", "none", &ParseDisplay, "accepted; there is no display"},
    {"no-reboot", "", &SetFlag<&Options::no_reboot>, "end instead of a guest's reboot"},
    {"help", "", &SetFlag<&Options::print_help>, "print this"},
    {"h", "", &SetFlag<&Options::print_help>, "as -help"},
    {"version", "", &SetFlag<&Options::print_version>, "print the version"},
};

const OptionEntry* FindOption(absl::string_view name) {
  const auto* const found =
      std::find_if(std::begin(kOptions), std::end(kOptions), [name](const OptionEntry& o) { return o.name == name; });
  return found == std::end(kOptions) ? nullptr : found;
}

// "-name" or "--name" without its dashes; empty if `word` is no option.
absl::string_view OptionName(absl::string_view word) {
  if (!absl::ConsumePrefix(&word, "-")) return "";
  absl::ConsumePrefix(&word, "-");
  return word;
}

}  // namespace

absl::StatusOr<Options> ParseOptions(absl::Span<const std::string> args) {
  RawOptions raw;
  for (size_t i = 0; i < args.size(); ++i) {
    const OptionEntry* option = FindOption(OptionName(args[i]));
    if (option == nullptr) {
      const bool dashed = absl::StartsWith(args[i], "-");
      return absl::InvalidArgumentError(absl::StrCat(args[i], ": ", dashed ? "invalid option" : "not an option"));
    }
    const bool takes_argument = !option->argument.empty();
    if (takes_argument && i + 1 == args.size()) {
      return absl::InvalidArgumentError(absl::StrCat(args[i], ": requires an argument"));
    }
    const std::string context = takes_argument ? absl::StrCat(args[i], " ", args[i + 1]) : args[i];
    CPR_RETURN_IF_ERROR(Annotate(option->parse(takes_argument ? args[++i] : "", &raw), context));
  }
  if (raw.options.print_help || raw.options.print_version) return std::move(raw.options);
  CPR_RETURN_IF_ERROR(ResolveOptions(&raw));
  return std::move(raw.options);
}

absl::StatusOr<Options> ParseOptions(int argc, const char* const* argv) {
  return ParseOptions(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
}

std::string HelpText() {
  std::string text = absl::StrCat(VersionText(), "usage: cpr-vmm [options]\n\n");
  for (const OptionEntry& option : kOptions) {
    if (option.help.empty()) continue;
    absl::StrAppend(&text, "-", option.name, option.argument.empty() ? "" : " ", option.argument, "\n");
    absl::StrAppend(&text, "                ", option.help, "\n");
  }
  absl::StrAppend(&text, "\nURI: file:P[,offset=N] unix:P tcp:H:PORT exec:CMD fd:N memfd:\n");
  return text;
}

std::string VersionText() {
  return absl::StrFormat("cpr-vmm %s (speaks QEMU %d.%d's command line and monitors)\n", kVersion, kQemuMajor,
                         kQemuMinor);
}

bool HasIncomingOption(absl::Span<const std::string> words) {
  // The last word would lack its argument.
  return std::find_if(words.begin(), words.end(), [](const std::string& w) { return OptionName(w) == "incoming"; }) +
             1 <
         words.end();
}

}  // namespace cpr
