// A network device and the kernel's real /dev/vhost-net, which the testbed's host has: scenario vhost runs it.
#include <linux/virtio_config.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/matchers.h"
#include "vmm/virtio/fake_driver.h"
#include "vmm/virtio/host_network.h"
#include "vmm/virtio/net.h"
#include "vmm/virtio/net_abi.h"
#include "vmm/virtio/ring.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeDriver;
using ::cpr::testing::HostEnd;
using ::cpr::testing::IsOk;
using ::testing::IsEmpty;

constexpr unsigned kReceive = VirtioNet::kReceive, kTransmit = VirtioNet::kTransmit;
constexpr uint64_t kInGpa = 0x20000, kOutGpa = 0x80000;
constexpr uint32_t kRoomBytes = 2048;
constexpr MacAddress kMac = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

class VhostKernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_ASSERT_OK_AND_ASSIGN(UniqueFd vhost, VhostNet::Open());
    ASSERT_THAT(testing::EnterNewNetwork(), IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(Tap tap, Tap::Create("tap0"));
    CPR_ASSERT_OK_AND_ASSIGN(VhostNet kernel, VhostNet::Create(std::move(vhost)));
    device_ = Make(std::move(tap), std::move(kernel));
    CPR_ASSERT_OK_AND_ASSIGN(HostEnd host, HostEnd::Create("tap0"));
    host_.emplace(std::move(host));
    for (unsigned i = 0; i < 2; ++i) {
      calls_.emplace_back(::eventfd(0, EFD_CLOEXEC));
      drivers_.emplace_back(&memory_, 0x1000 * (i + 1), 8);
    }
    Connect(*device_);
    device_->Resume();
    device_->WriteStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    // Without event indices each request is worth an interrupt.
    device_->WriteDriverFeatures(device_->features() & ~(uint64_t{1} << kRingFeatureEventIndex));
    device_->WriteStatus(device_->status() | VIRTIO_CONFIG_S_FEATURES_OK);
    for (unsigned i = 0; i < 2; ++i) {
      device_->ConfigureQueue(i, [&](VirtqueueState& queue) { queue = drivers_[i].layout(); });
    }
    device_->WriteStatus(device_->status() | VIRTIO_CONFIG_S_DRIVER_OK);
  }
  std::unique_ptr<VirtioNet> Make(Tap tap, VhostNet kernel) {
    return std::make_unique<VirtioNet>(&memory_, std::move(tap), kMac, std::move(kernel),
                                       [this](const absl::Status& why) { given_up_.emplace_back(why.message()); });
  }
  void Connect(VirtioNet& device) {
    device.Connect({.queue = {}, .config = {}, .queue_eventfd = [this](unsigned i) { return calls_[i].get(); }});
  }
  // A device over the same fds, as another VMM would have it.
  std::unique_ptr<VirtioNet> MakeNext() {
    auto tap = DupFd(device_->tap().fd());
    auto fd = DupFd(device_->vhost_fd());
    EXPECT_TRUE(tap.ok() && fd.ok());
    auto kernel = VhostNet::Adopt(*std::move(fd));
    EXPECT_THAT(kernel.status(), IsOk());
    std::unique_ptr<VirtioNet> next = Make(Tap(*std::move(tap), "tap0"), *std::move(kernel));
    Connect(*next);
    return next;
  }
  // Until the kernel has given a request of the queue back: how much was written.
  uint32_t Await(unsigned index) {
    while (true) {
      if (const auto used = drivers_[index].TakeUsed()) return used->second;
      eventfd_t count;
      EXPECT_EQ(::eventfd_read(calls_[index].get(), &count), 0);
    }
  }
  void Offer(unsigned slot) { drivers_[kReceive].Add({{kInGpa + slot * kRoomBytes, kRoomBytes, true}}); }
  std::string Received(unsigned slot) {
    const uint32_t bytes = Await(kReceive);
    return drivers_[kReceive].Read(kInGpa + slot * kRoomBytes + Tap::kHeaderBytes, bytes - Tap::kHeaderBytes);
  }
  void Send(VirtioNet& device, const std::string& frame) {
    drivers_[kTransmit].WriteValue(kOutGpa, NetHeader{});
    drivers_[kTransmit].Write(kOutGpa + Tap::kHeaderBytes, frame);
    drivers_[kTransmit].Add({{kOutGpa, static_cast<uint32_t>(Tap::kHeaderBytes + frame.size()), false}});
    device.Notify(kTransmit);
    Await(kTransmit);
  }
  void ExpectFramesBothWays(VirtioNet& device, unsigned slot) {
    Send(device, HostEnd::Frame("out"));
    CPR_ASSERT_OK_AND_ASSIGN(const std::string frame, host_->Receive());
    EXPECT_EQ(frame, HostEnd::Frame("out"));
    Offer(slot);
    device.Notify(kReceive);
    ASSERT_THAT(host_->Send(HostEnd::Frame("in")), IsOk());
    EXPECT_EQ(Received(slot), HostEnd::Frame("in"));
  }

  const GuestMemory memory_ = testing::CreateTestMemory();
  std::vector<std::string> given_up_;
  std::vector<UniqueFd> calls_;
  std::vector<FakeDriver> drivers_;
  std::unique_ptr<VirtioNet> device_;
  std::optional<HostEnd> host_;
};

TEST_F(VhostKernelTest, FramesGoBothWays) {
  ExpectFramesBothWays(*device_, 0);
  device_->Quiesce();
  device_->Resume();
  ExpectFramesBothWays(*device_, 1);
  EXPECT_THAT(given_up_, IsEmpty());
}

TEST_F(VhostKernelTest, FramesOfThePauseWaitForTheNextVmm) {
  ExpectFramesBothWays(*device_, 0);
  Offer(1);
  Offer(2);
  device_->Quiesce();
  ASSERT_THAT(host_->Send(HostEnd::Frame("meanwhile")), IsOk());
  const VirtioNetState state = device_->Save();
  EXPECT_EQ(state.device.queues[kReceive].next_available, 1);
  EXPECT_EQ(state.device.queues[kReceive].next_used, 1);
  EXPECT_EQ(state.device.queues[kTransmit].next_available, 1);
  const std::unique_ptr<VirtioNet> next = MakeNext();
  ASSERT_THAT(next->Restore(state), IsOk());
  next->Resume();
  EXPECT_EQ(Received(1), HostEnd::Frame("meanwhile"));
  ASSERT_THAT(host_->Send(HostEnd::Frame("after")), IsOk());
  EXPECT_EQ(Received(2), HostEnd::Frame("after"));
  ExpectFramesBothWays(*next, 3);
  next->Quiesce();
  EXPECT_THAT(given_up_, IsEmpty());
}

// By an address space of its own, as a new VMM has one.
TEST_F(VhostKernelTest, AnotherProcessCanHaveItOnceItIsStopped) {
  const auto start_elsewhere = [this] {
    const pid_t child = ::fork();
    if (child == 0) {
      auto fd = DupFd(device_->vhost_fd());
      auto kernel = VhostNet::Create(*std::move(fd));
      ::_exit(kernel.ok() ? 0
              : kernel.status().message().find("VHOST_SET_OWNER: Device or resource busy") != absl::string_view::npos
                  ? 1
                  : 2);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return WEXITSTATUS(status);
  };
  EXPECT_EQ(start_elsewhere(), 1);
  ExpectFramesBothWays(*device_, 0);
  device_->Quiesce();
  EXPECT_EQ(start_elsewhere(), 0);
  device_->Resume();
  ExpectFramesBothWays(*device_, 1);
  EXPECT_THAT(given_up_, IsEmpty());
}

}  // namespace
}  // namespace cpr
