#include "vmm/virtio/device_set.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_console.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "libcpr/vmstate/container.h"
#include "vmm/virtio/fake_guest.h"
#include "vmm/virtio/fake_router.h"
#include "vmm/virtio/fake_vhost.h"
#include "vmm/virtio/host_network.h"
#include "vmm/virtio/tap.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeGuest;
using ::cpr::testing::FakeRouter;
using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr unsigned kBlk = 0, kConsole = 1, kRng = 2;
constexpr unsigned kControlIn = 2, kControlOut = 3, kInput = 4, kOutput = 5;
constexpr uint64_t kGpa = FakeGuest::kFreeGpa, kInputGpa = 0x30000;

// What a VMM has besides RAM and event loop.
struct Vmm {
  explicit Vmm(const GuestMemory* ram, EventLoop* loop)
      : host(*PciHost::Create(PciWindowsAbove(uint64_t{4} << 30), &ports, &mmio)),
        surroundings{ram, loop, host.get(), &router, {}} {}
  Bus ports, mmio;
  FakeRouter router;
  std::unique_ptr<VirtioDeviceSet> set;  // outlives the bus that it is on
  std::unique_ptr<PciHost> host;
  VirtioDeviceSet::Surroundings surroundings;
};

class DeviceSetTest : public ::testing::Test {
 protected:
  DeviceSetTest() {
    std::ofstream(disk_) << std::string(4096, 'd');
    configs_ = {{.kind = VirtioDeviceConfig::Kind::kBlk, .id = "disk0", .path = disk_},
                {.kind = VirtioDeviceConfig::Kind::kSerial,
                 .ports = {{.name = "org.qemu.guest_agent.0",
                            .chardev_id = "qga0",
                            .chardev = {.kind = ChardevConfig::Kind::kSocket, .path = socket_, .server = true}}}},
                {.kind = VirtioDeviceConfig::Kind::kRng}};
  }
  VirtioDeviceSet* Create(Vmm& vmm, FdTable* fds = nullptr) {
    auto set = VirtioDeviceSet::Create(vmm.surroundings, configs_, fds);
    EXPECT_TRUE(set.ok()) << set.status();
    if (set.ok()) vmm.set = *std::move(set);
    return vmm.set.get();
  }
  // Until `queue` of the console's guest has a request back; how many bytes.
  uint32_t Await(FakeGuest& guest, unsigned queue) {
    while (true) {
      if (const auto used = guest.queue(queue).TakeUsed()) return used->second;
      loop_->RunOnce(absl::InfiniteDuration());
    }
  }
  void Say(FakeGuest& guest, uint32_t port, uint16_t event) {
    guest.queue(kControlOut).WriteValue(kGpa, virtio_console_control{port, event, 1});
    guest.queue(kControlOut).Add({{kGpa, 8, false}});
    guest.Kick(kControlOut);
    Await(guest, kControlOut);
  }
  // Until the guest has been told by a control message of `event` that it is `value`.
  void AwaitControl(FakeGuest& guest, uint16_t event, uint16_t value) {
    virtio_console_control control = {};
    while (control.event != event || control.value != value) {
      guest.queue(kControlIn).Add({{kGpa + 256, 64, true}});
      guest.Kick(kControlIn);
      Await(guest, kControlIn);
      const std::string bytes = guest.queue(kControlIn).Read(kGpa + 256, sizeof(control));
      std::memcpy(&control, bytes.data(), sizeof(control));
    }
  }
  std::string AwaitInput(FakeGuest& guest) {
    guest.queue(kInput).Add({{kInputGpa, 64, true}});
    guest.Kick(kInput);
    return guest.queue(kInput).Read(kInputGpa, Await(guest, kInput));
  }

  // From where the old side is quiesced to where the new one runs the guest.
  static void GoOver(VirtioDeviceSet* old_side, VirtioDeviceSet* new_side) {
    SectionRegistry old_sections, new_sections;
    ASSERT_THAT(old_side->AddSections(old_sections), IsOk());
    ASSERT_THAT(new_side->AddSections(new_sections), IsOk());
    std::string state;
    ContainerWriter writer(&state, StateIdentity{});
    ASSERT_THAT(SaveSections(old_sections, Stage::kLate, writer), IsOk());
    ASSERT_THAT(writer.Finish(), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(const ContainerReader reader, ContainerReader::Parse(state));
    ASSERT_THAT(LoadSections(new_sections, Stage::kLate, reader), IsOk());
    ASSERT_THAT(ApplySections(new_sections, Stage::kLate), IsOk());
    old_side->ReleaseToPeer(/*fds_went=*/true);
    new_side->Resume();
  }

  const testing::TempFolder folder_;
  const std::string disk_ = folder_.File("disk.raw"), socket_ = folder_.File("qga.sock");
  std::vector<VirtioDeviceConfig> configs_;
  const GuestMemory memory_ = testing::CreateTestMemory();
  const std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
};

TEST_F(DeviceSetTest, ClientsAndImagesGoOverWithTheGuest) {
  Vmm old_vmm(&memory_, loop_.get()), new_vmm(&memory_, loop_.get());
  VirtioDeviceSet* const old_side = Create(old_vmm);
  ASSERT_NE(old_side, nullptr);
  old_side->Resume();
  FakeGuest guest(&memory_, &old_side->device(kConsole));
  guest.BringUp();
  Say(guest, VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY);
  Say(guest, 1, VIRTIO_CONSOLE_PORT_READY);
  Say(guest, 1, VIRTIO_CONSOLE_PORT_OPEN);
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd client, ConnectUnixStream(socket_));
  AwaitControl(guest, VIRTIO_CONSOLE_PORT_OPEN, 1);
  ASSERT_THAT(WriteAll(client.get(), "one"), IsOk());
  EXPECT_EQ(AwaitInput(guest), "one");

  old_side->HoldConnections();
  FdTable fds;
  ASSERT_THAT(old_side->AddFds(fds), IsOk());
  EXPECT_EQ(fds.size(), 3u) << "image, listener, client";
  SectionRegistry old_sections, new_sections;
  ASSERT_THAT(old_side->AddSections(old_sections), IsOk());
  VirtioDeviceSet* const new_side = Create(new_vmm, &fds);
  ASSERT_NE(new_side, nullptr);
  EXPECT_TRUE(fds.empty());
  ASSERT_THAT(new_side->AddSections(new_sections), IsOk());
  old_side->Quiesce();
  old_side->QuiesceChardevs();
  ASSERT_THAT(WriteAll(client.get(), "two"), IsOk());
  std::string state;
  ContainerWriter writer(&state, StateIdentity{});
  ASSERT_THAT(SaveSections(old_sections, Stage::kLate, writer), IsOk());
  ASSERT_THAT(writer.Finish(), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(const ContainerReader reader, ContainerReader::Parse(state));
  ASSERT_THAT(LoadSections(new_sections, Stage::kLate, reader), IsOk());
  ASSERT_THAT(ApplySections(new_sections, Stage::kLate), IsOk());
  old_side->ReleaseToPeer(/*fds_went=*/true);

  // The driver does not know that its device is another one now.
  new_side->device(kConsole).Connect({});
  new_side->Resume();
  new_side->ResumeChardevs();
  const auto serve = [&](unsigned queue, std::vector<testing::FakeDriver::Buffer> buffers) {
    guest.queue(queue).Add(buffers);
    new_side->device(kConsole).Notify(queue);
    return Await(guest, queue);
  };
  EXPECT_EQ(serve(kInput, {{kInputGpa, 64, true}}), 3u);
  EXPECT_EQ(guest.queue(kInput).Read(kInputGpa, 3), "two");
  guest.queue(kOutput).Write(kGpa, "three");
  serve(kOutput, {{kGpa, 5, false}});
  char answer[5];
  EXPECT_EQ(::recv(client.get(), answer, sizeof(answer), MSG_WAITALL), 5);
  EXPECT_EQ(std::string(answer, 5), "three");
  EXPECT_FALSE(DiskImage::Create({disk_, false}).ok()) << "locked all the time";
}

// The tap goes over as it is; a frame that arrived meanwhile is received on the new side.
TEST_F(DeviceSetTest, TapGoesOverWithTheGuest) {
  if (const absl::Status entered = testing::EnterNewNetwork(); !entered.ok()) GTEST_SKIP() << entered;
  configs_ = {{.kind = VirtioDeviceConfig::Kind::kNet, .net = {.mac = {2, 0, 0, 0, 0, 1}}}};
  Vmm old_vmm(&memory_, loop_.get()), new_vmm(&memory_, loop_.get());
  VirtioDeviceSet* const old_side = Create(old_vmm);
  ASSERT_NE(old_side, nullptr);
  const std::string interface = old_side->configs()[0].net.interface;
  CPR_ASSERT_OK_AND_ASSIGN(const testing::HostEnd host, testing::HostEnd::Create(interface));
  old_side->Resume();
  FakeGuest guest(&memory_, &old_side->device(0));
  guest.BringUp(/*without=*/uint64_t{1} << 15);  // buffers are not merged
  const auto await = [&](const std::string& frame) {
    guest.queue(0).Add({{kGpa, 2048, true}});
    while (!guest.queue(0).TakeUsed().has_value()) loop_->RunOnce(absl::InfiniteDuration());
    EXPECT_EQ(guest.queue(0).Read(kGpa + Tap::kHeaderBytes, frame.size()), frame);
  };
  const std::string one = testing::HostEnd::Frame("one"), two = testing::HostEnd::Frame("two");
  ASSERT_THAT(host.Send(one), IsOk());
  await(one);

  FdTable fds;
  ASSERT_THAT(old_side->AddFds(fds), IsOk());
  VirtioDeviceSet* const new_side = Create(new_vmm, &fds);
  ASSERT_NE(new_side, nullptr);
  EXPECT_TRUE(fds.empty());
  EXPECT_EQ(new_side->configs()[0].net.interface, interface);
  old_side->Quiesce();
  ASSERT_THAT(host.Send(two), IsOk());
  guest.queue(0).Add({{kGpa, 2048, true}});
  GoOver(old_side, new_side);
  while (!guest.queue(0).TakeUsed().has_value()) loop_->RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(guest.queue(0).Read(kGpa + Tap::kHeaderBytes, two.size()), two);
}

// /dev/vhost-net stays with the guest: whoever runs it has it.
TEST_F(DeviceSetTest, VhostGoesOverWithTheGuest) {
  if (const absl::Status entered = testing::EnterNewNetwork(); !entered.ok()) GTEST_SKIP() << entered;
  // Stands in for the file by its name; what it answers is the fake's.
  const std::string file = folder_.File("vhost-net");
  if (::mknod(file.c_str(), S_IFCHR | 0600, makedev(1, 3)) != 0) GTEST_SKIP() << "mknod: " << std::strerror(errno);
  const UniqueFd vhost(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!vhost.ok()) GTEST_SKIP() << "open: " << std::strerror(errno);
  configs_ = {{.kind = VirtioDeviceConfig::Kind::kNet, .net = {.vhost = true, .vhost_fd = vhost.get()}}};
  testing::FakeVhost kernel;
  Vmm old_vmm(&memory_, loop_.get()), new_vmm(&memory_, loop_.get());
  old_vmm.surroundings.vhost_ioctl = kernel.As(1);
  new_vmm.surroundings.vhost_ioctl = kernel.As(2);
  VirtioDeviceSet* const old_side = Create(old_vmm);
  ASSERT_NE(old_side, nullptr);
  old_side->Resume();
  FakeGuest guest(&memory_, &old_side->device(0));
  guest.BringUp();
  EXPECT_EQ(kernel.owner, 1);

  FdTable fds;
  ASSERT_THAT(old_side->AddFds(fds), IsOk());
  EXPECT_EQ(fds.size(), 2u) << "tap, vhost";
  configs_[0].net.vhost_fd = -1;
  VirtioDeviceSet* const new_side = Create(new_vmm, &fds);
  ASSERT_NE(new_side, nullptr);
  EXPECT_TRUE(fds.empty());
  EXPECT_EQ(kernel.owner, 1) << "the guest runs";
  old_side->Quiesce();
  EXPECT_EQ(kernel.owner, 0);
  GoOver(old_side, new_side);
  EXPECT_EQ(kernel.owner, 2);
  EXPECT_EQ(kernel.queues[1].kick_fd, new_side->device(0).notify_fd(1));
}

TEST_F(DeviceSetTest, FramesGoOnWhenVhostDoesNot) {
  if (const absl::Status entered = testing::EnterNewNetwork(); !entered.ok()) GTEST_SKIP() << entered;
  const UniqueFd vhost(::open("/dev/null", O_RDWR | O_CLOEXEC));
  configs_ = {{.kind = VirtioDeviceConfig::Kind::kNet, .id = "n", .net = {.vhost = true, .vhost_fd = vhost.get()}}};
  testing::FakeVhost kernel;
  Vmm vmm(&memory_, loop_.get());
  std::vector<std::string> warnings;
  vmm.surroundings.vhost_ioctl = kernel.As(1);
  vmm.surroundings.warn = [&](const std::string& text) { warnings.push_back(text); };
  VirtioDeviceSet* const set = Create(vmm);
  ASSERT_NE(set, nullptr);
  CPR_ASSERT_OK_AND_ASSIGN(const testing::HostEnd host, testing::HostEnd::Create(set->configs()[0].net.interface));
  set->Resume();
  FakeGuest guest(&memory_, &set->device(0));
  kernel.FailOne(0, EBUSY);
  guest.BringUp();
  guest.queue(1).WriteValue(kGpa + 0, std::array<char, Tap::kHeaderBytes>{});
  guest.queue(1).Write(kGpa + Tap::kHeaderBytes, testing::HostEnd::Frame("out"));
  guest.queue(1).Add({{kGpa, static_cast<uint32_t>(Tap::kHeaderBytes + testing::HostEnd::Frame("out").size()), false}});
  guest.Kick(1);
  Await(guest, 1);
  CPR_ASSERT_OK_AND_ASSIGN(const std::string frame, host.Receive());
  EXPECT_EQ(frame, testing::HostEnd::Frame("out"));
  EXPECT_THAT(warnings,
              ::testing::ElementsAre("virtio-net-pci n: unable to start vhost net: VHOST_SET_OWNER: Device or "
                                     "resource busy: falling back on userspace virtio"));
}

TEST_F(DeviceSetTest, VhostThatCannotBeHadIsNamed) {
  if (const absl::Status entered = testing::EnterNewNetwork(); !entered.ok()) GTEST_SKIP() << entered;
  Vmm vmm(&memory_, loop_.get());
  configs_ = {{.kind = VirtioDeviceConfig::Kind::kNet, .id = "n", .net = {.vhost = true}}};
  if (::access("/dev/vhost-net", F_OK) != 0) {
    EXPECT_THAT(VirtioDeviceSet::Create(vmm.surroundings, configs_, nullptr).status().message(),
                HasSubstr("virtio-net-pci n: tap: open vhost char device failed (/dev/vhost-net): No such file"));
  }
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  configs_[0].net.vhost_fd = null.get();
  Vmm other(&memory_, loop_.get());
  EXPECT_THAT(VirtioDeviceSet::Create(other.surroundings, configs_, nullptr).status().message(),
              HasSubstr("virtio-net-pci n: vhost-net requested but could not be initialized: VHOST_GET_FEATURES: "));
}

TEST_F(DeviceSetTest, ImageIsFreeOnceTheStateIsAllThatGoesOver) {
  Vmm vmm(&memory_, loop_.get());
  VirtioDeviceSet* const set = Create(vmm);
  set->Resume();
  EXPECT_FALSE(DiskImage::Create({disk_, false}).ok());
  set->Quiesce();
  set->ReleaseToPeer(/*fds_went=*/false);
  {
    CPR_ASSERT_OK_AND_ASSIGN(const DiskImage others, DiskImage::Create({disk_, false}));
    EXPECT_THAT(set->TakeImagesBack(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(disk_)));
  }
  EXPECT_THAT(set->TakeImagesBack(), IsOk());
  EXPECT_FALSE(DiskImage::Create({disk_, false}).ok());
}

TEST_F(DeviceSetTest, EachIsInItsSlot) {
  Vmm vmm(&memory_, loop_.get());
  configs_[kBlk].slot = 5;
  configs_[kRng].slot = 3;
  VirtioDeviceSet* const set = Create(vmm);
  ASSERT_NE(set, nullptr);
  EXPECT_TRUE(vmm.host->function(5) != nullptr && vmm.host->function(1) != nullptr);
  EXPECT_NE(vmm.host->function(3), nullptr);
  EXPECT_EQ(vmm.host->function(2), nullptr);
  EXPECT_THAT(set->chardevs(), ::testing::ElementsAre(::testing::Pair("qga0", ::testing::NotNull())));
}

TEST_F(DeviceSetTest, DiskAndRandomNumbersAreServedWithoutBeingAsked) {
  Vmm vmm(&memory_, loop_.get());
  VirtioDeviceSet* const set = Create(vmm);
  set->Resume();
  {
    FakeGuest guest(&memory_, &set->device(kRng));
    guest.BringUp();
    guest.queue(0).Add({{kGpa, 16, true}});
    guest.Kick(0);
    EXPECT_EQ(Await(guest, 0), 16u);
  }
  FakeGuest guest(&memory_, &set->device(kBlk));
  guest.queue(0).WriteAvailableIndex(0);
  guest.queue(0).WriteValue(guest.queue(0).layout().used_gpa, uint32_t{0});
  guest.BringUp();
  guest.queue(0).WriteValue(kGpa, virtio_blk_outhdr{VIRTIO_BLK_T_IN, 0, 0});
  guest.queue(0).Add({{kGpa, 16, false}, {kInputGpa, 512, true}, {kGpa + 16, 1, true}});
  guest.Kick(0);
  EXPECT_EQ(guest.AwaitUsed(0).second, 513u);
  EXPECT_EQ(guest.queue(0).Read(kInputGpa, 512), std::string(512, 'd'));
}

TEST_F(DeviceSetTest, DeviceThatCannotBeMadeIsNamed) {
  Vmm vmm(&memory_, loop_.get());
  configs_[kBlk].path = folder_.File("missing.raw");
  EXPECT_THAT(VirtioDeviceSet::Create(vmm.surroundings, configs_, nullptr).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("virtio-blk-pci disk0: ")));
}

}  // namespace
}  // namespace cpr
