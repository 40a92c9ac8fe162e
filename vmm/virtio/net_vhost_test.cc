// A network device whose queues the kernel serves; a fake one, as few hosts have /dev/vhost-net.
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/matchers.h"
#include "vmm/virtio/fake_guest.h"
#include "vmm/virtio/fake_router.h"
#include "vmm/virtio/fake_vhost.h"
#include "vmm/virtio/host_network.h"
#include "vmm/virtio/net.h"
#include "vmm/virtio/net_abi.h"
#include "vmm/virtio/pci.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeDriver;
using ::cpr::testing::FakeGuest;
using ::cpr::testing::FakeRouter;
using ::cpr::testing::FakeVhost;
using ::cpr::testing::HostEnd;
using ::cpr::testing::IsOk;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kUs = 1, kPeer = 2;
constexpr MacAddress kMac = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

class NetVhostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status entered = testing::EnterNewNetwork(); !entered.ok()) GTEST_SKIP() << entered;
    auto tap = Tap::Create("tap0");
    if (!tap.ok()) GTEST_SKIP() << tap.status();
    device_ = Make(kUs, *std::move(tap));
    guest_ = std::make_unique<FakeGuest>(&memory_, device_.get());
    device_->Resume();
  }
  std::unique_ptr<VirtioNet> Make(int process, Tap tap) {
    auto vhost = VhostNet::Adopt(UniqueFd(), kernel_.As(process));
    EXPECT_THAT(vhost.status(), IsOk());
    return std::make_unique<VirtioNet>(&memory_, std::move(tap), kMac, *std::move(vhost),
                                       [this](const absl::Status& why) { given_up_.emplace_back(why.message()); });
  }
  std::unique_ptr<VirtioNet> MakeNext() {
    absl::StatusOr<UniqueFd> fd = DupFd(device_->tap().fd());
    EXPECT_THAT(fd.status(), IsOk());
    return Make(kPeer, Tap(*std::move(fd), "tap0"));
  }
  // As the kernel: `count` requests of the queue are taken and given back.
  void ServeInKernel(unsigned index, uint16_t count) {
    FakeVhost::Queue& queue = kernel_.queues[index];
    queue.next_available = static_cast<uint16_t>(queue.next_available + count);
    *reinterpret_cast<uint16_t*>(queue.used + 2) = static_cast<uint16_t>(queue.next_available);
  }
  bool at_work() const { return kernel_.queues[0].backend_fd != -1 && kernel_.queues[1].backend_fd != -1; }

  const GuestMemory memory_ = testing::CreateTestMemory();
  FakeVhost kernel_;
  std::vector<std::string> given_up_;
  std::unique_ptr<VirtioNet> device_;
  std::unique_ptr<FakeGuest> guest_;
};

TEST_F(NetVhostTest, KernelServesWhileDriverAndMachineAreUp) {
  EXPECT_EQ(kernel_.owner, 0) << "nothing to serve yet";
  guest_->BringUp();
  ASSERT_TRUE(at_work());
  EXPECT_EQ(kernel_.owner, kUs);
  for (unsigned i = 0; i < 2; ++i) {
    EXPECT_EQ(kernel_.queues[i].backend_fd, device_->tap().fd());
    EXPECT_EQ(kernel_.queues[i].kick_fd, device_->notify_fd(i));
    EXPECT_EQ(kernel_.queues[i].call_fd, -1) << "this guest has no eventfds";
  }
  device_->Quiesce();
  EXPECT_FALSE(at_work());
  EXPECT_EQ(kernel_.owner, 0) << "whoever has the fd next can take it";
  device_->Resume();
  EXPECT_TRUE(at_work());
  device_->WriteStatus(0);
  EXPECT_FALSE(at_work());
  EXPECT_EQ(kernel_.owner, 0);
  device_->Quiesce();
  device_->Resume();
  EXPECT_EQ(kernel_.owner, 0) << "the driver is not up";
  EXPECT_THAT(given_up_, IsEmpty());
}

// The notifications are the kernel's: who takes one away makes it miss a request.
TEST_F(NetVhostTest, NobodyElseServesMeanwhile) {
  guest_->BringUp();
  guest_->Kick(VirtioNet::kTransmit);
  device_->Serve(VirtioNet::kTransmit);
  eventfd_t count = 0;
  EXPECT_EQ(::eventfd_read(device_->notify_fd(VirtioNet::kTransmit), &count), 0);
  EXPECT_GT(count, 0u);
}

TEST_F(NetVhostTest, StateSaysHowFarTheKernelCame) {
  guest_->BringUp();
  ServeInKernel(VirtioNet::kReceive, 5);
  ServeInKernel(VirtioNet::kTransmit, 9);
  device_->Quiesce();
  const VirtioNetState state = device_->Save();
  EXPECT_EQ(state.device.queues[0].next_available, 5);
  EXPECT_EQ(state.device.queues[0].next_used, 5);
  EXPECT_EQ(state.device.queues[1].next_available, 9);
  EXPECT_EQ(state.device.queues[1].next_used, 9);

  const std::unique_ptr<VirtioNet> next = MakeNext();
  ASSERT_THAT(next->Restore(state), IsOk());
  EXPECT_EQ(next->Save(), state);
  EXPECT_EQ(kernel_.owner, 0) << "the old side can still take it back";
  next->Resume();
  ASSERT_TRUE(at_work());
  EXPECT_EQ(kernel_.owner, kPeer);
  EXPECT_EQ(kernel_.queues[0].next_available, 5u);
  EXPECT_EQ(kernel_.queues[1].next_available, 9u);
  EXPECT_EQ(kernel_.queues[1].kick_fd, next->notify_fd(1));
  EXPECT_THAT(given_up_, IsEmpty());
}

TEST_F(NetVhostTest, OldSideGoesOnAfterAHandoverThatWasCalledOff) {
  guest_->BringUp();
  ServeInKernel(VirtioNet::kReceive, 3);
  device_->Quiesce();
  {
    const std::unique_ptr<VirtioNet> next = MakeNext();
    ASSERT_THAT(next->Restore(device_->Save()), IsOk());
  }
  device_->Resume();
  EXPECT_TRUE(at_work());
  EXPECT_EQ(kernel_.owner, kUs);
  EXPECT_EQ(kernel_.queues[0].next_available, 3u);
  EXPECT_THAT(given_up_, IsEmpty());
}

// What the kernel has given back is in the guest's RAM.
TEST_F(NetVhostTest, UsedRingSaysHowFarIfTheKernelDoesNot) {
  guest_->BringUp();
  ServeInKernel(VirtioNet::kReceive, 4);
  kernel_.FailOne(2, EIO);
  device_->Quiesce();
  EXPECT_EQ(device_->Save().device.queues[0].next_available, 4);
  EXPECT_THAT(given_up_, ElementsAre(HasSubstr("unable to stop vhost net: queue 0: VHOST_GET_VRING_BASE: ")));
}

TEST_F(NetVhostTest, FramesGoOnWithoutTheKernel) {
  CPR_ASSERT_OK_AND_ASSIGN(const HostEnd host, HostEnd::Create("tap0"));
  kernel_.FailOne(1, EPERM);
  guest_->BringUp(/*without=*/uint64_t{1} << kNetMergeable);
  EXPECT_THAT(given_up_, ElementsAre("unable to start vhost net: VHOST_SET_FEATURES: Operation not permitted"));
  EXPECT_EQ(kernel_.owner, 0);
  guest_->queue(VirtioNet::kReceive).Add({{FakeGuest::kFreeGpa, 2048, true}});
  ASSERT_THAT(host.Send(HostEnd::Frame("here")), IsOk());
  device_->Serve(VirtioNet::kReceive);
  EXPECT_TRUE(guest_->queue(VirtioNet::kReceive).TakeUsed().has_value());
  kernel_.calls.clear();
  device_->Quiesce();
  device_->Resume();
  EXPECT_THAT(kernel_.calls, IsEmpty()) << "by now somebody here listens to tap and notifications";
}

// On a PCI bus, where the driver's interrupts have eventfds.
class NetVhostPciTest : public NetVhostTest {
 protected:
  void SetUp() override {
    NetVhostTest::SetUp();
    if (IsSkipped()) return;
    guest_.reset();
    pci_ = *VirtioPci::Create(device_.get(), 0x020000, &router_, nullptr);
    pci_->msix()->SetControl(/*enabled=*/true, /*masked=*/false);
    for (unsigned i = 0; i < 2; ++i) drivers_.emplace_back(&memory_, 0x1000 * (i + 1), FakeGuest::kQueueSize);
  }
  void Write(uint64_t offset, unsigned size_bytes, uint64_t value) {
    pci_->WriteBar(0, VirtioPci::kCommonAt + offset, size_bytes, value);
  }
  void SetVector(unsigned queue, uint16_t vector) {
    Write(VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
    Write(VIRTIO_PCI_COMMON_Q_MSIX, 2, vector);
  }
  void Mask(unsigned vector, bool masked) { pci_->msix()->WriteTable(vector * Msix::kEntryBytes + 12, 4, masked); }
  void BringUp() {
    device_->WriteStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    device_->WriteDriverFeatures(device_->features());
    device_->WriteStatus(device_->status() | VIRTIO_CONFIG_S_FEATURES_OK);
    for (unsigned i = 0; i < 2; ++i) {
      Mask(i, false);
      SetVector(i, static_cast<uint16_t>(i));
      device_->ConfigureQueue(i, [&](VirtqueueState& queue) { queue = drivers_[i].layout(); });
    }
    device_->WriteStatus(device_->status() | VIRTIO_CONFIG_S_DRIVER_OK);
  }
  // Whether KVM listens to the eventfd that the kernel signals for `queue`.
  bool Heard(unsigned queue) const {
    for (const auto& [gsi, eventfd] : router_.attached) {
      if (eventfd == kernel_.queues[queue].call_fd) return true;
    }
    return false;
  }

  FakeRouter router_;
  std::unique_ptr<VirtioPci> pci_;
  std::vector<FakeDriver> drivers_;
};

TEST_F(NetVhostPciTest, InterruptsFollowTheirVectors) {
  BringUp();
  ASSERT_TRUE(at_work());
  EXPECT_TRUE(Heard(0) && Heard(1));
  const int first = kernel_.queues[0].call_fd, second = kernel_.queues[1].call_fd;
  EXPECT_NE(first, second);
  SetVector(1, 0);
  EXPECT_EQ(kernel_.queues[1].call_fd, first);
  SetVector(1, VIRTIO_MSI_NO_VECTOR);
  EXPECT_EQ(kernel_.queues[1].call_fd, -1);
  SetVector(1, 1);
  EXPECT_EQ(kernel_.queues[1].call_fd, second);
  EXPECT_TRUE(Heard(1));
  EXPECT_EQ(kernel_.queues[1].backend_fd, device_->tap().fd()) << "at work all the time";
}

TEST_F(NetVhostPciTest, MaskedInterruptWaits) {
  BringUp();
  Mask(0, true);
  EXPECT_FALSE(Heard(0));
  ASSERT_EQ(::eventfd_write(kernel_.queues[0].call_fd, 1), 0);
  EXPECT_EQ(pci_->msix()->ReadPba(0, 8), 1u);
  Mask(0, false);
  EXPECT_TRUE(Heard(0)) << "and what has gathered is heard, too";
  pci_->msix()->WriteTable(8, 4, 0x41);  // routed elsewhere
  EXPECT_TRUE(Heard(0));
  EXPECT_EQ(router_.routes[FakeRouter::kFirstGsi].data, 0x41u);
}

// A masked vector's interrupt is in the state, and comes on the new side.
TEST_F(NetVhostPciTest, InterruptThatWaitsGoesOver) {
  BringUp();
  Mask(0, true);
  ASSERT_EQ(::eventfd_write(kernel_.queues[0].call_fd, 1), 0);
  device_->Quiesce();
  ASSERT_THAT(pci_->msix()->DetachShared(), IsOk());
  FakeRouter router;
  const std::unique_ptr<VirtioNet> next = MakeNext();
  const std::unique_ptr<VirtioPci> next_pci = *VirtioPci::Create(next.get(), 0x020000, &router, nullptr);
  ASSERT_THAT(next_pci->msix()->Restore(pci_->msix()->Save(), /*enabled=*/true, /*masked=*/false), IsOk());
  ASSERT_THAT(next_pci->RestoreTransport(pci_->SaveTransport()), IsOk());
  ASSERT_THAT(next->Restore(device_->Save()), IsOk());
  next->Resume();
  ASSERT_TRUE(at_work());
  const int eventfd = kernel_.queues[0].call_fd;
  EXPECT_EQ(router.attached.count(FakeRouter::kFirstGsi), 0u);
  EXPECT_EQ(next_pci->msix()->ReadPba(0, 8), 1u);
  next_pci->msix()->WriteTable(12, 4, 0);
  EXPECT_EQ(router.attached[FakeRouter::kFirstGsi], eventfd);
  pollfd entry = {.fd = eventfd, .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&entry, 1, 0), 1) << "KVM finds it when it begins to listen";
}

}  // namespace
}  // namespace cpr
