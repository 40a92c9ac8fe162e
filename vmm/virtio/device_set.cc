#include "vmm/virtio/device_set.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/vmstate/proto_section.h"
#include "vmm/chardev/chardev_state.h"
#include "vmm/virtio/device_state.h"
#include "vmm/virtio/pci_state.h"

namespace cpr {
namespace {

using Kind = VirtioDeviceConfig::Kind;

constexpr char kDiskFd[] = "virtio-disk", kTapFd[] = "virtio-tap", kVhostFd[] = "virtio-vhost-net";
constexpr char kBlk[] = "virtio-blk", kConsole[] = "virtio-serial", kRng[] = "virtio-rng", kNet[] = "virtio-net",
               kTransport[] = "virtio-pci", kPortChardev[] = "virtio-port-chardev";
constexpr uint32_t kVersion = 1;
static_assert(VirtioConsole::kMaxPorts == kMaxVirtioPorts && VirtioConsole::kMaxNameBytes == kMaxVirtioPortNameBytes);
// A VMM that wrote a cpr-reboot's state unlocks its images right after the state's last byte.
constexpr absl::Duration kUnlockTime = absl::Seconds(2), kUnlockCheck = absl::Milliseconds(5);
constexpr uint32_t kBlkClass = 0x010000, kConsoleClass = 0x078000, kRngClass = 0x00ff00, kNetClass = 0x020000;

std::string PortFdPrefix(size_t port) { return absl::StrCat("virtio-port", port, "."); }

std::string NameOf(const VirtioDeviceConfig& config, uint32_t instance) {
  const std::string place = config.slot == 0 ? absl::StrCat("#", instance) : absl::StrCat("in PCI slot ", config.slot);
  return absl::StrCat(VirtioDriverName(config.kind), " ", config.id.empty() ? place : config.id);
}

// A device with its conversion, by what saves and restores it.
template <typename Proto, typename State>
Section DeviceSection(const char* name, uint32_t instance, std::function<State()> save,
                      std::function<absl::Status(const State&)> restore, Proto (*to_proto)(const State&),
                      absl::StatusOr<State> (*from_proto)(const Proto&)) {
  auto staged = std::make_shared<State>();
  return ProtoSection<Proto>(
      {.name = name, .instance = instance, .version = kVersion, .stage = Stage::kLate},
      [=](Proto* proto) {
        *proto = to_proto(save());
        return absl::OkStatus();
      },
      [=](const Proto& proto) -> absl::Status {
        CPR_ASSIGN_OR_RETURN(*staged, from_proto(proto));
        return absl::OkStatus();
      },
      [=] { return restore(*staged); });
}

template <typename Proto, typename State, typename Device>
Section SectionOf(const char* name, uint32_t instance, Device* device, Proto (*to_proto)(const State&),
                  absl::StatusOr<State> (*from_proto)(const Proto&)) {
  return DeviceSection<Proto, State>(
      name, instance, [device] { return device->Save(); }, [device](const State& s) { return device->Restore(s); },
      to_proto, from_proto);
}

std::optional<unsigned> SlotOf(const VirtioDeviceConfig& config) {
  return config.slot == 0 ? std::nullopt : std::make_optional(config.slot);
}

// The fds of one chardev, by the names that it knows them by.
absl::StatusOr<std::map<std::string, UniqueFd>> TakeChardevFds(FdTable* fds, const std::string& prefix,
                                                               uint32_t instance) {
  std::map<std::string, UniqueFd> taken;
  if (fds == nullptr) return taken;
  const v1::FdManifest manifest = fds->Manifest();
  for (const v1::FdEntry& entry : manifest.entries()) {
    absl::string_view name = entry.name();
    if (entry.instance() != instance || !absl::ConsumePrefix(&name, prefix)) continue;
    CPR_ASSIGN_OR_RETURN(taken[std::string(name)],
                         fds->Take(entry.name(), entry.instance(), static_cast<FdKind>(entry.kind())));
  }
  return taken;
}

absl::StatusOr<std::unique_ptr<Chardev>> MakeChardev(ChardevConfig config, std::map<std::string, UniqueFd> fds,
                                                     bool arrives, EventLoop* loop) {
  if (!fds.empty()) return Chardev::Adopt(config, std::move(fds), loop);
  config.append = config.append || arrives;
  CPR_ASSIGN_OR_RETURN(std::unique_ptr<Chardev> chardev, Chardev::Create(config, loop));
  if (arrives) chardev->Quiesce();
  return chardev;
}

// The image of a guest that arrives without fds: the VMM before may be about to unlock it.
absl::StatusOr<DiskImage> OpenWhenUnlocked(const DiskImage::Config& config) {
  const absl::Time deadline = absl::Now() + kUnlockTime;
  absl::StatusOr<DiskImage> image = DiskImage::Create(config);
  while (absl::IsFailedPrecondition(image.status()) && absl::Now() < deadline) {
    absl::SleepFor(kUnlockCheck);
    image = DiskImage::Create(config);
  }
  return image;
}

// An fd that the command line has given stays for a second attempt, and not for programs started from here.
void KeepFromPrograms(int fd) { ::fcntl(fd, F_SETFD, FD_CLOEXEC); }

absl::StatusOr<Tap> MakeTap(const VirtioNetConfig& config, uint32_t instance, FdTable* fds) {
  if (fds != nullptr && fds->Has(kTapFd, instance)) {
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, fds->Take(kTapFd, instance, FdKind::kTap));
    return Tap::Adopt(std::move(fd));
  }
  if (config.fd < 0) return Tap::Create(config.interface);
  CPR_ASSIGN_OR_RETURN(UniqueFd fd, DupFd(config.fd));
  absl::StatusOr<Tap> tap = Tap::Adopt(std::move(fd));
  if (!tap.ok()) return Annotate(tap.status(), absl::StrCat("fd=", config.fd));
  KeepFromPrograms(config.fd);
  return tap;
}

absl::StatusOr<VhostNet> MakeVhost(const VirtioNetConfig& config, uint32_t instance, FdTable* fds,
                                   const IoctlFunction& ioctl) {
  if (fds != nullptr && fds->Has(kVhostFd, instance)) {
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, fds->Take(kVhostFd, instance, FdKind::kVhost));
    return VhostNet::Adopt(std::move(fd), ioctl);
  }
  absl::StatusOr<UniqueFd> fd = config.vhost_fd < 0 ? VhostNet::Open() : DupFd(config.vhost_fd);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<VhostNet> vhost = VhostNet::Create(*std::move(fd), ioctl);
  if (!vhost.ok()) return Annotate(vhost.status(), "vhost-net requested but could not be initialized");
  if (config.vhost_fd >= 0) KeepFromPrograms(config.vhost_fd);
  return vhost;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VirtioDeviceSet>> VirtioDeviceSet::Create(const Surroundings& surroundings,
                                                                         absl::Span<const VirtioDeviceConfig> configs,
                                                                         FdTable* fds) {
  std::unique_ptr<VirtioDeviceSet> set(new VirtioDeviceSet(surroundings.loop));
  for (const VirtioDeviceConfig& config : configs) {
    const auto instance = static_cast<uint32_t>(set->devices_.size());
    CPR_RETURN_IF_ERROR(Annotate(set->Add(surroundings, config, fds), NameOf(config, instance)));
  }
  return set;
}

VirtioDeviceSet::~VirtioDeviceSet() {
  Quiesce();
  ForEachChardev([](Chardev& chardev) { chardev.SetCallbacks({}); });
  for (const auto& device : devices_) {
    for (unsigned i = 0; i < device->device->queue_count(); ++i) loop_->Unwatch(device->device->notify_fd(i));
    if (device->net != nullptr) loop_->Unwatch(device->net->tap().fd());
  }
}

absl::Status VirtioDeviceSet::Add(const Surroundings& surroundings, const VirtioDeviceConfig& config, FdTable* fds) {
  const auto instance = static_cast<uint32_t>(devices_.size());
  auto device = std::make_unique<Device>();
  device->config = config;
  uint32_t class_code = kRngClass;
  if (config.kind == Kind::kBlk) {
    class_code = kBlkClass;
    CPR_RETURN_IF_ERROR(MakeBlk(surroundings.memory, instance, fds, device.get()));
  } else if (config.kind == Kind::kSerial) {
    class_code = kConsoleClass;
    CPR_RETURN_IF_ERROR(MakeConsole(surroundings.memory, instance, fds, device.get()));
  } else if (config.kind == Kind::kNet) {
    class_code = kNetClass;
    CPR_RETURN_IF_ERROR(MakeNet(surroundings, instance, fds, device.get()));
  } else {
    auto rng = std::make_unique<VirtioRng>(surroundings.memory);
    device->rng = rng.get();
    device->device = std::move(rng);
  }
  CPR_ASSIGN_OR_RETURN(device->pci,
                       VirtioPci::Create(device->device.get(), class_code, surroundings.router, surroundings.doorbell));
  // The bus keeps what is on it: from here on the device lives as long as the set.
  devices_.push_back(std::move(device));
  Device& added = *devices_.back();
  CPR_RETURN_IF_ERROR(surroundings.host->Add(SlotOf(config), added.pci.get()).status());
  if (fds != nullptr) added.pci->ExpectDoorbells();
  // A disk has a thread of its own.
  if (added.blk != nullptr) return absl::OkStatus();
  if (added.net != nullptr) return added.net->vhost_fd() < 0 ? WatchNet(added) : absl::OkStatus();
  return WatchQueues(added.device.get());
}

absl::Status VirtioDeviceSet::MakeBlk(const GuestMemory* memory, uint32_t instance, FdTable* fds, Device* device) {
  const DiskImage::Config config{device->config.path, device->config.read_only, device->config.probe};
  absl::StatusOr<DiskImage> image = absl::UnknownError("");
  if (fds != nullptr && fds->Has(kDiskFd, instance)) {
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, fds->Take(kDiskFd, instance, FdKind::kFile));
    image = DiskImage::Adopt(config, std::move(fd));
  } else {
    image = fds != nullptr ? OpenWhenUnlocked(config) : DiskImage::Create(config);
  }
  if (!image.ok()) return image.status();
  CPR_ASSIGN_OR_RETURN(auto blk, VirtioBlk::Create(memory, *std::move(image), device->config.serial));
  device->blk = blk.get();
  device->device = std::move(blk);
  return absl::OkStatus();
}

absl::Status VirtioDeviceSet::MakeConsole(const GuestMemory* memory, uint32_t instance, FdTable* fds, Device* device) {
  std::vector<VirtioConsole::Port> ports;
  for (const VirtioPortConfig& config : device->config.ports) {
    CPR_ASSIGN_OR_RETURN(auto taken, TakeChardevFds(fds, PortFdPrefix(ports.size()), instance));
    CPR_ASSIGN_OR_RETURN(device->chardevs.emplace_back(),
                         MakeChardev(config.chardev, std::move(taken), fds != nullptr, loop_));
    Chardev* const chardev = device->chardevs.back().get();
    ports.push_back({.name = config.name,
                     .output = [chardev](absl::string_view bytes) { chardev->Write(bytes); },
                     .room = [chardev] { chardev->AcceptInput(); },
                     .connected = [chardev] { return chardev->connected(); }});
  }
  auto console = std::make_unique<VirtioConsole>(memory, std::move(ports));
  device->console = console.get();
  device->device = std::move(console);
  return absl::OkStatus();
}

absl::Status VirtioDeviceSet::MakeNet(const Surroundings& surroundings, uint32_t instance, FdTable* fds,
                                      Device* device) {
  VirtioNetConfig& config = device->config.net;
  CPR_ASSIGN_OR_RETURN(Tap tap, MakeTap(config, instance, fds));
  config.interface = tap.name();
  std::unique_ptr<VirtioNet> net;
  if (config.vhost) {
    CPR_ASSIGN_OR_RETURN(VhostNet vhost, MakeVhost(config, instance, fds, surroundings.vhost_ioctl));
    net = std::make_unique<VirtioNet>(surroundings.memory, std::move(tap), config.mac, std::move(vhost),
                                      FallBackOf(surroundings, instance));
  } else {
    net = std::make_unique<VirtioNet>(surroundings.memory, std::move(tap), config.mac);
  }
  device->net = net.get();
  device->device = std::move(net);
  return absl::OkStatus();
}

// Comes on any thread, with the device locked.
std::function<void(const absl::Status& why)> VirtioDeviceSet::FallBackOf(const Surroundings& surroundings,
                                                                         uint32_t instance) {
  return [loop = loop_, weak = std::weak_ptr<VirtioDeviceSet*>(self_), warn = surroundings.warn,
          instance](const absl::Status& why) {
    loop->Post([=] {
      const auto self = weak.lock();
      if (self == nullptr) return;
      Device& device = *(*self)->devices_[instance];
      absl::Status status = Annotate(why, NameOf(device.config, instance));
      status.Update((*self)->WatchNet(device));
      if (warn) warn(absl::StrCat(status.message(), ": falling back on userspace virtio"));
    });
  };
}

// The tap with edges: while the guest has no room, frames that wait must not keep the loop busy. Its notification has
// them looked for again.
absl::Status VirtioDeviceSet::WatchNet(Device& device) {
  VirtioNet* const net = device.net;
  CPR_RETURN_IF_ERROR(WatchQueues(net));
  return loop_->Watch(net->tap().fd(), EPOLLIN | EPOLLET, [net](uint32_t) { net->Serve(VirtioNet::kReceive); });
}

absl::Status VirtioDeviceSet::WatchQueues(VirtioDevice* device) {
  for (unsigned i = 0; i < device->queue_count(); ++i) {
    CPR_RETURN_IF_ERROR(loop_->Watch(device->notify_fd(i), EPOLLIN, [device, i](uint32_t) { device->Serve(i); }));
  }
  return absl::OkStatus();
}

void VirtioDeviceSet::ConnectPorts(Device& device) {
  for (size_t port = 0; port < device.chardevs.size(); ++port) {
    VirtioConsole* const console = device.console;
    device.chardevs[port]->SetCallbacks(
        {.room = [console, port] { return console->Room(port); },
         .receive = [console, port](absl::string_view data) { console->Receive(port, data); },
         .connection = [console, port](bool) { console->ConnectionChanged(port); }});
    // Who was there when the guest was last told may have left.
    console->ConnectionChanged(port);
  }
}

void VirtioDeviceSet::HoldConnections() {
  ForEachChardev([](Chardev& chardev) { chardev.HoldConnections(); });
}

void VirtioDeviceSet::QuiesceChardevs() {
  ForEachChardev([](Chardev& chardev) { chardev.Quiesce(); });
}

void VirtioDeviceSet::ResumeChardevs() {
  ForEachChardev([](Chardev& chardev) { chardev.Resume(); });
}

void VirtioDeviceSet::Quiesce() {
  for (const auto& device : devices_) device->device->Quiesce();
}

void VirtioDeviceSet::Resume() {
  for (const auto& device : devices_) {
    ConnectPorts(*device);
    device->device->Resume();
  }
}

void VirtioDeviceSet::ReleaseToPeer(bool fds_went) {
  for (const auto& device : devices_) {
    if (device->blk != nullptr && !fds_went) device->blk->image().Unlock();
  }
  images_unlocked_ = !fds_went;
  if (fds_went) ForEachChardev([](Chardev& chardev) { chardev.ReleaseToPeer(); });
}

absl::Status VirtioDeviceSet::FlushImages() const {
  for (const auto& device : devices_) {
    if (device->blk == nullptr) continue;
    CPR_RETURN_IF_ERROR(Annotate(device->blk->image().Flush(), device->config.path));
  }
  return absl::OkStatus();
}

absl::Status VirtioDeviceSet::TakeImagesBack() {
  if (!images_unlocked_) return absl::OkStatus();
  for (const auto& device : devices_) {
    if (device->blk == nullptr) continue;
    const absl::Status status = device->blk->image().Relock();
    if (status.ok()) continue;
    ReleaseToPeer(/*fds_went=*/false);
    return status;
  }
  images_unlocked_ = false;
  return absl::OkStatus();
}

std::vector<std::pair<std::string, const Chardev*>> VirtioDeviceSet::chardevs() const {
  std::vector<std::pair<std::string, const Chardev*>> chardevs;
  for (const auto& device : devices_) {
    for (size_t port = 0; port < device->chardevs.size(); ++port) {
      chardevs.emplace_back(device->config.ports[port].chardev_id, device->chardevs[port].get());
    }
  }
  return chardevs;
}

std::vector<VirtioDeviceConfig> VirtioDeviceSet::configs() const {
  std::vector<VirtioDeviceConfig> configs;
  for (const auto& device : devices_) configs.push_back(device->config);
  return configs;
}

absl::Status VirtioDeviceSet::DropPortFds(uint32_t instance, size_t port, FdTable& fds) {
  return TakeChardevFds(&fds, PortFdPrefix(port), instance).status();
}

absl::Status VirtioDeviceSet::AddFds(FdTable& fds) const {
  for (uint32_t instance = 0; instance < devices_.size(); ++instance) {
    const Device& device = *devices_[instance];
    if (device.blk != nullptr) {
      CPR_RETURN_IF_ERROR(fds.AddDup(kDiskFd, instance, FdKind::kFile, device.blk->image().fd()));
    }
    if (device.net != nullptr) {
      CPR_RETURN_IF_ERROR(fds.AddDup(kTapFd, instance, FdKind::kTap, device.net->tap().fd()));
    }
    if (device.net != nullptr && device.net->vhost_fd() >= 0) {
      CPR_RETURN_IF_ERROR(fds.AddDup(kVhostFd, instance, FdKind::kVhost, device.net->vhost_fd()));
    }
    for (size_t port = 0; port < device.chardevs.size(); ++port) {
      for (const ChardevFd& fd : device.chardevs[port]->Fds()) {
        CPR_RETURN_IF_ERROR(fds.AddDup(absl::StrCat(PortFdPrefix(port), fd.name), instance, fd.kind, fd.fd));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status VirtioDeviceSet::AddSections(SectionRegistry& sections) {
  for (uint32_t instance = 0; instance < devices_.size(); ++instance) {
    Device& device = *devices_[instance];
    VirtioPci* const pci = device.pci.get();
    CPR_RETURN_IF_ERROR(sections.Add(DeviceSection<v1::VirtioPciState, VirtioPciState>(
        kTransport, instance, [pci] { return pci->SaveTransport(); },
        [pci](const VirtioPciState& state) { return pci->RestoreTransport(state); }, &VirtioPciStateToProto,
        &VirtioPciStateFromProto)));
    if (device.blk != nullptr) {
      CPR_RETURN_IF_ERROR(
          sections.Add(SectionOf(kBlk, instance, device.blk, &VirtioBlkStateToProto, &VirtioBlkStateFromProto)));
    }
    if (device.console != nullptr) {
      CPR_RETURN_IF_ERROR(sections.Add(
          SectionOf(kConsole, instance, device.console, &VirtioConsoleStateToProto, &VirtioConsoleStateFromProto)));
    }
    if (device.net != nullptr) {
      CPR_RETURN_IF_ERROR(
          sections.Add(SectionOf(kNet, instance, device.net, &VirtioNetStateToProto, &VirtioNetStateFromProto)));
    }
    if (device.rng != nullptr) {
      CPR_RETURN_IF_ERROR(
          sections.Add(SectionOf(kRng, instance, device.rng, &VirtioStateToProto, &VirtioStateFromProto)));
    }
    for (uint32_t port = 0; port < device.chardevs.size(); ++port) {
      const auto port_instance = static_cast<uint32_t>(instance * VirtioConsole::kMaxPorts + port);
      CPR_RETURN_IF_ERROR(sections.Add(SectionOf(kPortChardev, port_instance, device.chardevs[port].get(),
                                                 &ChardevStateToProto, &ChardevStateFromProto)));
    }
  }
  return absl::OkStatus();
}

std::vector<SectionSupport> VirtioDeviceSet::Support() {
  std::vector<SectionSupport> support;
  for (const char* name : {kTransport, kBlk, kConsole, kRng, kNet, kPortChardev}) support.push_back({name, kVersion});
  return support;
}

}  // namespace cpr
