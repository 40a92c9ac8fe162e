// Machines with virtio devices through every mode: what the host holds for them stays held. (What a driver in the guest
// sees of it, the testbed's scenario virtio shows.)

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <fstream>
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
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"
#include "tests/driver/programs.h"
#include "tests/driver/vmm.h"
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
  std::vector<std::string> Devices() const {
    return {"-drive",   absl::StrCat("if=none,id=d0,format=raw,file=", disk_),
            "-device",  "virtio-blk-pci,drive=d0,addr=5",
            "-chardev", absl::StrCat("socket,id=qga0,server=on,wait=off,path=", socket_),
            "-device",  "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0",
            "-device",  "virtio-rng-pci"};
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
    EXPECT_THAT(rig->vmm().qmp().Execute("cont").status().message(), HasSubstr("is another process using the image?"));
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
  std::vector<std::string> words = Devices();
  words.insert(words.end(), {"-incoming", "defer"});
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig->StartAnother(words));
  ASSERT_THAT(next.SetIgnoreShared(), IsOk());
  const JsonValue uri = JsonMembers({{"uri", JsonText(absl::StrCat("file:", path))}});
  absl::Status refused = next.qmp().Execute("migrate-incoming", uri).status();
  if (refused.ok()) refused = next.qmp().AwaitMigration();
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("-device in PCI slot 1 is virtio-serial-pci, the machine has none"),
                                       HasSubstr("-device in PCI slot 5 is virtio-blk-pci, the machine has none")));
  ASSERT_THAT(rig->vmm().qmp().Execute("cont"), IsOk());
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
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
