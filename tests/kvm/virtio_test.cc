// Machines with virtio devices through every mode: what the host holds for them stays held. (What a driver in the guest
// sees of it, the testbed's scenario virtio shows.)

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "proto/cpr/v1/machine.pb.h"
#include "proto/cpr/v1/virtio.pb.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"
#include "tests/driver/programs.h"
#include "tests/driver/vmm.h"
#include "tests/kvm/altered_state.h"
#include "vmm/json/json.h"
#include "vmm/virtio/disk_image.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr Mode kModes[] = {Mode::kTransfer, Mode::kExec, Mode::kReboot};
constexpr absl::Duration kTimeout = absl::Seconds(20);

class VirtioHandover : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    std::ofstream(disk_) << std::string(1 << 20, 'd');
  }
  std::vector<std::string> Devices(const std::string& chardev) const {
    return {"-drive",   absl::StrCat("if=none,id=d0,format=raw,file=", disk_),
            "-device",  "virtio-blk-pci,drive=d0,addr=5",
            "-chardev", chardev,
            "-device",  "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0",
            "-device",  "virtio-rng-pci"};
  }
  std::vector<std::string> Devices() const {
    return Devices(absl::StrCat("socket,id=qga0,server=on,wait=off,path=", socket_));
  }
  absl::StatusOr<std::unique_ptr<GuestRig>> Start() const {
    return GuestRig::Start({.vcpus = 2, .ram_mib = 64, .more = Devices()});
  }
  // Whether anybody holds the image.
  bool Locked() const { return absl::IsFailedPrecondition(DiskImage::Create({disk_, false}).status()); }
  // Saves the guest's state to the file.
  static absl::Status Save(GuestRig& rig, const std::string& path) {
    if (const absl::Status set = rig.vmm().SetMode(Mode::kReboot); !set.ok()) return set;
    if (const absl::Status set = rig.vmm().SetIgnoreShared(); !set.ok()) return set;
    if (const absl::Status begun = rig.vmm().Migrate(absl::StrCat("file:", path)); !begun.ok()) return begun;
    return rig.vmm().qmp().AwaitStatus("postmigrate");
  }
  // How another VMM, started with `words`, refuses the state in the file.
  static std::string Refusal(GuestRig& rig, const std::string& path, std::vector<std::string> words = {}) {
    words.insert(words.end(), {"-incoming", "defer"});
    absl::StatusOr<Vmm> next = rig.StartAnother(words);
    if (!next.ok()) return absl::StrCat("it did not start: ", next.status().message());
    EXPECT_THAT(next->SetIgnoreShared(), IsOk());
    const JsonValue uri = JsonMembers({{"uri", JsonText(absl::StrCat("file:", path))}});
    absl::Status refused = next->qmp().Execute("migrate-incoming", uri).status();
    if (refused.ok()) refused = next->qmp().AwaitMigration();
    return std::string(refused.message());
  }

  const testing::TempFolder folder_;
  const std::string disk_ = folder_.File("disk.raw"), socket_ = folder_.File("qga.sock");
};

// Nothing to read, and not hung up.
bool Connected(int client) {
  char byte;
  return ::recv(client, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

TEST_F(VirtioHandover, ImagesStayLockedAndClientsConnected) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, Start());
  EXPECT_TRUE(Locked());
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd client, ConnectUnixStream(socket_));
  for (int round = 0; round < 2; ++round) {
    for (const Mode mode : kModes) {
      SCOPED_TRACE(absl::StrCat(ModeName(mode), ", round ", round));
      CPR_ASSERT_OK_AND_ASSIGN(const Handover handover, rig->HandOver(mode));
      EXPECT_THAT(handover.verdict, IsOk());
      EXPECT_TRUE(Locked());
      if (mode == Mode::kReboot) {
        CPR_ASSERT_OK_AND_ASSIGN(client, ConnectUnixStream(socket_));
      }
      EXPECT_TRUE(Connected(client.get()));
    }
  }
  CPR_ASSERT_OK_AND_ASSIGN(const JsonValue chardevs, rig->vmm().qmp().Execute("query-chardev"));
  EXPECT_THAT(PrintJson(chardevs), AllOf(HasSubstr("\"qga0\""), HasSubstr(socket_)));
  ASSERT_THAT(rig->vmm().Quit(), IsOk());
  EXPECT_FALSE(Locked());
}

TEST_F(VirtioHandover, PausedGuestTakesItsDevicesAlong) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, Start());
  for (const Mode mode : kModes) {
    SCOPED_TRACE(ModeName(mode));
    ASSERT_THAT(rig->vmm().qmp().Execute("stop"), IsOk());
    ASSERT_THAT(rig->HandOver(mode), IsOk());
    EXPECT_TRUE(Locked());
    ASSERT_THAT(rig->vmm().qmp().Execute("cont"), IsOk());
    EXPECT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
    EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
  }
}

// In a state file the guest has its images no more; it has them back before it runs, or does not run.
TEST_F(VirtioHandover, ImageTakenByAnotherKeepsTheGuestInItsFile) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, Start());
  ASSERT_THAT(Save(*rig, rig->File("vm.state")), IsOk());
  {
    CPR_ASSERT_OK_AND_ASSIGN(const DiskImage others, DiskImage::Create({disk_, false}));
    EXPECT_THAT(rig->vmm().qmp().Execute("cont").status().message(), HasSubstr("Is another process using the image ["));
    CPR_ASSERT_OK_AND_ASSIGN(const std::string state, rig->vmm().RunState());
    EXPECT_EQ(state, "postmigrate");
  }
  ASSERT_THAT(rig->vmm().qmp().Execute("cont"), IsOk());
  EXPECT_TRUE(Locked());
  EXPECT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
  EXPECT_THAT(rig->HandOver(Mode::kTransfer), IsOk());
}

TEST_F(VirtioHandover, OtherDevicesAreRefusedByName) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({.ram_mib = 64}));
  const std::string path = rig->File("vm.state");
  ASSERT_THAT(Save(*rig, path), IsOk());
  EXPECT_THAT(Refusal(*rig, path, Devices()),
              AllOf(HasSubstr("-device in PCI slot 1 is virtio-serial-pci, the machine has none"),
                    HasSubstr("-device in PCI slot 5 is virtio-blk-pci, the machine has none")));
  ASSERT_THAT(rig->vmm().qmp().Execute("cont"), IsOk());
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

// A state with one thing wrong in a device's part, its checksums as they should be.
struct BadPart {
  std::string name;
  std::string state;
  std::string message;
};

std::vector<BadPart> BadParts(const std::string& good, const std::string& disk) {
  constexpr uint32_t kBlk = 0, kRng = 2;
  v1::VirtioConsoleState console;
  console.add_ports()->set_name("p");
  const auto renamed = [&](absl::string_view from, uint32_t instance, absl::string_view to) {
    return AlterSection(good, from, instance, [&](SectionInfo& info, std::string&) { info.name = std::string(to); });
  };
  return {
      {"cut", AlterSection(good, "virtio-blk", kBlk, [](SectionInfo&, std::string& p) { p.resize(p.size() - 2); }),
       "section 'virtio-blk' instance 0 version 1"},
      {"empty", AlterSection(good, "virtio-rng", kRng, [](SectionInfo&, std::string& p) { p.clear(); }),
       "section 'virtio-rng' instance 2 version 1: field 'driver_features' is missing"},
      {"altered", AlterProto<v1::VirtioBlkState>(good, "virtio-blk", kBlk, [](auto& p) { p.set_capacity_sectors(9); }),
       absl::StrCat("section 'virtio-blk' instance 0 version 1: ", disk, " has 2048 sectors, the guest knows 9")},
      {"another port",
       AlterProto<v1::VirtioConsoleState>(good, "virtio-serial", 1, [](auto& p) { p.mutable_ports(0)->set_name("x"); }),
       "section 'virtio-serial' instance 1 version 1: virtio-serial state: port 'x', here is 'org.qemu.guest_agent.0'"},
      {"a vector that the device lacks",
       AlterProto<v1::VirtioPciState>(good, "virtio-pci", kRng, [](auto& p) { p.set_config_vector(77); }),
       "section 'virtio-pci' instance 2 version 1: virtio-pci state: config vector 77"},
      {"another device's state",
       AlterSection(good, "virtio-blk", kBlk, [&](SectionInfo&, std::string& p) { p = console.SerializeAsString(); }),
       "section 'virtio-blk' instance 0 version 1"},
      {"a section less", renamed("virtio-rng", kRng, "virtio-blk"), "section 'virtio-blk' instance 2 version 1"},
      {"another device",
       AlterProto<v1::MachineDescription>(
           good, "machine", 0,
           [](auto& p) { p.mutable_devices()->mutable_virtio(kRng)->set_kind(v1::MACHINE_VIRTIO_KIND_SERIAL); }),
       "-device in PCI slot 2 is virtio-rng-pci, the machine has virtio-serial-pci"},
      {"no devices",
       AlterProto<v1::MachineDescription>(good, "machine", 0, [](auto& p) { p.mutable_devices()->Clear(); }),
       "-device in PCI slot 5 is virtio-blk-pci, the machine has none"},
  };
}

TEST_F(VirtioHandover, AlteredDevicesAreRefusedByName) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig,
                           GuestRig::Start({.ram_mib = 64, .more = Devices("null,id=qga0")}));
  const std::string good_path = rig->File("good.state"), path = rig->File("bad.state");
  ASSERT_THAT(Save(*rig, good_path), IsOk());
  std::ifstream file(good_path, std::ios::binary);
  const std::string good(std::istreambuf_iterator<char>(file), {});
  for (const BadPart& bad : BadParts(good, disk_)) {
    SCOPED_TRACE(bad.name);
    std::ofstream(path, std::ios::binary) << bad.state;
    EXPECT_THAT(Refusal(*rig, path), HasSubstr(bad.message));
    EXPECT_FALSE(Locked()) << "whoever refuses a guest leaves its image alone";
  }
  ASSERT_THAT(rig->vmm().qmp().Execute("cont"), IsOk());
  EXPECT_TRUE(Locked());
  EXPECT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
  EXPECT_THAT(rig->HandOver(Mode::kTransfer), IsOk());
}

TEST_F(VirtioHandover, StateAloneIsEnough) {
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, Start());
  const std::string path = rig->File("vm.state");
  ASSERT_THAT(Save(*rig, path), IsOk());
  ASSERT_THAT(rig->vmm().Quit(), IsOk());
  const std::string qmp = rig->NextName("qmp");
  CPR_ASSERT_OK_AND_ASSIGN(
      Vmm next, Vmm::Start({FindBuilt("vmm/cpr-vmm").value(), "-qmp", absl::StrCat("unix:", qmp, ",server=on,wait=off"),
                            "-incoming", absl::StrCat("file:", path)},
                           qmp, rig->File("next.log")));
  ASSERT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  EXPECT_TRUE(Locked());
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd client, ConnectUnixStream(socket_));
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

}  // namespace
}  // namespace cpr
