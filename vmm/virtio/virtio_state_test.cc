// Every virtio device's state, through the suite that all of them must pass.

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_pci.h>

#include <fstream>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/section_conformance.h"
#include "libcpr/testing/temp_folder.h"
#include "vmm/virtio/device_state.h"
#include "vmm/virtio/fake_guest.h"
#include "vmm/virtio/fake_router.h"
#include "vmm/virtio/pci_state.h"
#include "vmm/virtio/rng.h"

namespace cpr::testing {
namespace {

constexpr uint64_t kDataGpa = FakeGuest::kFreeGpa;

// What can be wrong with the part that all devices have in common, found in `Proto` by `kPart`.
template <typename Proto, v1::VirtioState* (*kPart)(Proto&)>
std::vector<Corruption<Proto>> CommonCorruptions() {
  return {{"status", [](Proto& p) { kPart(p)->set_status(0x100); }},
          {"unknown status", [](Proto& p) { kPart(p)->set_status(kPart(p)->status() | 0x20); }},
          {"feature nobody offers", [](Proto& p) { kPart(p)->set_driver_features(uint64_t{1} << 62); }},
          {"a driver without features", [](Proto& p) { kPart(p)->set_status(VIRTIO_CONFIG_S_DRIVER_OK); }},
          {"config generation", [](Proto& p) { kPart(p)->set_config_generation(0x100); }},
          {"no config generation", [](Proto& p) { kPart(p)->clear_config_generation(); }},
          {"a queue too few", [](Proto& p) { kPart(p)->mutable_queues()->RemoveLast(); }},
          {"a queue too many", [](Proto& p) { *kPart(p)->add_queues() = kPart(p)->queues(0); }},
          {"queue size", [](Proto& p) { kPart(p)->mutable_queues(0)->set_size(0x10000); }},
          {"queue size 3", [](Proto& p) { kPart(p)->mutable_queues(0)->set_size(3); }},
          {"descriptors", [](Proto& p) { kPart(p)->mutable_queues(0)->set_descriptors_gpa(uint64_t{1} << 40); }},
          {"available ring", [](Proto& p) { kPart(p)->mutable_queues(0)->set_available_gpa(1); }},
          {"used ring", [](Proto& p) { kPart(p)->mutable_queues(0)->set_used_gpa(~uint64_t{3}); }},
          {"next available", [](Proto& p) { kPart(p)->mutable_queues(0)->set_next_available(0x10000); }},
          {"next used", [](Proto& p) { kPart(p)->mutable_queues(0)->set_next_used(0x10000); }},
          {"a used queue that is off", [](Proto& p) { kPart(p)->mutable_queues(0)->set_enabled(false); }},
          {"a queue that is cut", [](Proto& p) { kPart(p)->mutable_queues(0)->clear_enabled(); }}};
}

struct RngMachine {
  GuestMemory memory = CreateTestMemory();
  VirtioRng device{&memory};
};

struct RngTraits {
  using Object = RngMachine;
  using Proto = v1::VirtioState;

  static std::unique_ptr<RngMachine> Create() { return std::make_unique<RngMachine>(); }
  static void Modify(RngMachine& machine) {
    FakeGuest guest(&machine.memory, &machine.device);
    guest.BringUp();
    machine.device.Resume();
    guest.queue(0).Add({{kDataGpa, 16, true}});
    machine.device.Serve(0);
    machine.device.Quiesce();
  }
  static Proto Save(const RngMachine& machine) { return VirtioStateToProto(machine.device.Save()); }
  static absl::Status Restore(RngMachine& machine, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const VirtioState state, VirtioStateFromProto(proto));
    return machine.device.Restore(state);
  }
  static v1::VirtioState* Part(Proto& proto) { return &proto; }
  static std::vector<Corruption<Proto>> Corruptions() { return CommonCorruptions<Proto, &Part>(); }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Rng, SectionConformance, RngTraits);

struct BlkMachine {
  BlkMachine() {
    const std::string path = folder.File("disk.raw");
    std::ofstream(path) << std::string(4096, 'x');
    device = *VirtioBlk::Create(&memory, *DiskImage::Create({path, false}), "");
  }
  TempFolder folder;
  GuestMemory memory = CreateTestMemory();
  std::unique_ptr<VirtioBlk> device;
};

struct BlkTraits {
  using Object = BlkMachine;
  using Proto = v1::VirtioBlkState;

  static std::unique_ptr<BlkMachine> Create() { return std::make_unique<BlkMachine>(); }
  static void Modify(BlkMachine& machine) {
    FakeGuest guest(&machine.memory, machine.device.get());
    guest.BringUp();
    machine.device->Resume();
    guest.queue(0).WriteValue(kDataGpa, uint64_t{4});  // a flush
    guest.queue(0).Add({{kDataGpa, 16, false}, {kDataGpa + 16, 1, true}});
    guest.Kick(0);
    guest.AwaitUsed(0);
    machine.device->Quiesce();
  }
  static Proto Save(const BlkMachine& machine) { return VirtioBlkStateToProto(machine.device->Save()); }
  static absl::Status Restore(BlkMachine& machine, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const VirtioBlkState state, VirtioBlkStateFromProto(proto));
    return machine.device->Restore(state);
  }
  static v1::VirtioState* Part(Proto& proto) { return proto.mutable_device(); }
  static std::vector<Corruption<Proto>> Corruptions() {
    auto corruptions = CommonCorruptions<Proto, &Part>();
    corruptions.push_back({"another size", [](Proto& p) { p.set_capacity_sectors(9); }});
    corruptions.push_back({"no device", [](Proto& p) { p.clear_device(); }});
    return corruptions;
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Blk, SectionConformance, BlkTraits);

struct NetMachine {
  GuestMemory memory = CreateTestMemory();
  // Its frames go nowhere.
  VirtioNet device{&memory, Tap(*OpenFile("/dev/null", O_RDWR), "tap0"), {0x52, 0x54, 0, 0x12, 0x34, 0x56}};
};

struct NetTraits {
  using Object = NetMachine;
  using Proto = v1::VirtioNetState;

  static std::unique_ptr<NetMachine> Create() { return std::make_unique<NetMachine>(); }
  static void Modify(NetMachine& machine) {
    FakeGuest guest(&machine.memory, &machine.device);
    guest.BringUp();
    machine.device.Resume();
    guest.queue(VirtioNet::kReceive).Add({{kDataGpa, 2048, true}});
    guest.queue(VirtioNet::kTransmit).Add({{kDataGpa, 64, false}});
    machine.device.Serve(VirtioNet::kTransmit);
    machine.device.Quiesce();
  }
  static Proto Save(const NetMachine& machine) { return VirtioNetStateToProto(machine.device.Save()); }
  static absl::Status Restore(NetMachine& machine, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const VirtioNetState state, VirtioNetStateFromProto(proto));
    return machine.device.Restore(state);
  }
  static v1::VirtioState* Part(Proto& proto) { return proto.mutable_device(); }
  static std::vector<Corruption<Proto>> Corruptions() {
    std::vector<Corruption<Proto>> corruptions = {
        {"a used queue that is off", [](Proto& p) { p.mutable_device()->mutable_queues(1)->set_enabled(false); }},
        {"no device", [](Proto& p) { p.clear_device(); }},
        {"another address", [](Proto& p) { p.set_mac("\x52\x54\1\x12\x34\x57", 6); }},
        {"five bytes of address", [](Proto& p) { p.set_mac("RT412"); }}};
    for (Corruption<Proto>& common : CommonCorruptions<Proto, &Part>()) {
      // Its first queue is one that has received nothing.
      if (common.name != "a used queue that is off") corruptions.push_back(std::move(common));
    }
    return corruptions;
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Net, SectionConformance, NetTraits);

struct ConsoleMachine {
  GuestMemory memory = CreateTestMemory();
  VirtioConsole device{&memory, {Port("org.qemu.guest_agent.0"), Port("second")}};

  static VirtioConsole::Port Port(const char* name) {
    return {name, [](absl::string_view) {}, [] {}, [] { return true; }};
  }
};

struct ConsoleTraits {
  using Object = ConsoleMachine;
  using Proto = v1::VirtioConsoleState;

  static std::unique_ptr<ConsoleMachine> Create() { return std::make_unique<ConsoleMachine>(); }
  static void Modify(ConsoleMachine& machine) {
    FakeGuest guest(&machine.memory, &machine.device);
    guest.BringUp();
    machine.device.Resume();
    const auto say = [&](virtio_console_control control) {
      guest.queue(3).WriteValue(kDataGpa, control);
      guest.queue(3).Add({{kDataGpa, sizeof(control), false}});
      machine.device.Serve(3);
    };
    say({0xffffffff, VIRTIO_CONSOLE_DEVICE_READY, 1});
    say({1, VIRTIO_CONSOLE_PORT_READY, 1});
    say({1, VIRTIO_CONSOLE_PORT_OPEN, 1});
    machine.device.Receive(0, "typed ahead \xff");
    machine.device.Quiesce();
  }
  static Proto Save(const ConsoleMachine& machine) { return VirtioConsoleStateToProto(machine.device.Save()); }
  static absl::Status Restore(ConsoleMachine& machine, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const VirtioConsoleState state, VirtioConsoleStateFromProto(proto));
    return machine.device.Restore(state);
  }
  static v1::VirtioState* Part(Proto& proto) { return proto.mutable_device(); }
  static std::vector<Corruption<Proto>> Corruptions() {
    std::vector<Corruption<Proto>> corruptions = {
        {"a used queue that is off", [](Proto& p) { p.mutable_device()->mutable_queues(3)->set_enabled(false); }},
        {"a port too few", [](Proto& p) { p.mutable_ports()->RemoveLast(); }},
        {"a port too many", [](Proto& p) { *p.add_ports() = p.ports(0); }},
        {"another name", [](Proto& p) { p.mutable_ports(0)->set_name("first"); }},
        {"a port that is cut", [](Proto& p) { p.mutable_ports(1)->clear_guest_open(); }},
        {"input without end", [](Proto& p) { p.mutable_ports(0)->set_pending_input(std::string(4097, 'x')); }},
        {"input nobody waits for", [](Proto& p) { p.mutable_ports(1)->set_pending_input("x"); }},
        {"an unready port's name", [](Proto& p) { p.mutable_ports(1)->set_tell_name(true); }},
        {"an unready port's peer", [](Proto& p) { p.mutable_ports(1)->set_tell_open(true); }},
        {"nobody to announce to", [](Proto& p) { p.set_driver_ready(false); }}};
    for (Corruption<Proto>& common : CommonCorruptions<Proto, &Part>()) {
      // Its first queue is one that no driver uses.
      if (common.name != "a used queue that is off") corruptions.push_back(std::move(common));
    }
    return corruptions;
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Console, SectionConformance, ConsoleTraits);

struct PciMachine {
  GuestMemory memory = CreateTestMemory();
  FakeRouter router;
  VirtioRng device{&memory};
  std::unique_ptr<VirtioPci> pci = *VirtioPci::Create(&device, 0x00ff00, &router, {});
};

struct PciTraits {
  using Object = PciMachine;
  using Proto = v1::VirtioPciState;

  static std::unique_ptr<PciMachine> Create() { return std::make_unique<PciMachine>(); }
  static void Modify(PciMachine& machine) {
    const auto write = [&](uint64_t offset, unsigned size_bytes, uint64_t value) {
      machine.pci->WriteBar(0, offset, size_bytes, value);
    };
    write(VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
    write(VIRTIO_PCI_COMMON_GFSELECT, 4, 2);
    write(VIRTIO_PCI_COMMON_MSIX, 2, 1);
    write(VIRTIO_PCI_COMMON_Q_MSIX, 2, 0);
    write(VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_DRIVER_OK);  // without features: broken, which it says
    write(VIRTIO_PCI_COMMON_Q_SELECT, 2, 7);
  }
  static Proto Save(const PciMachine& machine) { return VirtioPciStateToProto(machine.pci->SaveTransport()); }
  static absl::Status Restore(PciMachine& machine, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const VirtioPciState state, VirtioPciStateFromProto(proto));
    return machine.pci->RestoreTransport(state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"queue select", [](Proto& p) { p.set_queue_select(0x10000); }},
            {"config vector", [](Proto& p) { p.set_config_vector(2); }},
            {"config vector beyond 16 bits", [](Proto& p) { p.set_config_vector(0x10001); }},
            {"queue vector", [](Proto& p) { p.set_queue_vectors(0, 2); }},
            {"queue vector beyond 16 bits", [](Proto& p) { p.set_queue_vectors(0, 0x10000); }},
            {"a queue too few", [](Proto& p) { p.clear_queue_vectors(); }},
            {"a queue too many", [](Proto& p) { p.add_queue_vectors(0); }},
            {"interrupt status", [](Proto& p) { p.set_interrupt_status(4); }},
            {"interrupt status beyond a byte", [](Proto& p) { p.set_interrupt_status(0x102); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Pci, SectionConformance, PciTraits);

}  // namespace
}  // namespace cpr::testing
