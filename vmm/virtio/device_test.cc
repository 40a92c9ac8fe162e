#include "vmm/virtio/device.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <poll.h>

#include "gtest/gtest.h"
#include "vmm/virtio/fake_guest.h"
#include "vmm/virtio/ring.h"
#include "vmm/virtio/rng.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeGuest;

constexpr uint64_t kBufferGpa = FakeGuest::kFreeGpa;

bool Signalled(int fd) {
  pollfd poll_fd = {fd, POLLIN, 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

// By the simplest of the devices.
class VirtioDeviceTest : public ::testing::Test {
 protected:
  bool NeedsReset() const { return (device_.status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }

  const GuestMemory memory_ = testing::CreateTestMemory();
  VirtioRng device_{&memory_};
  FakeGuest guest_{&memory_, &device_};
};

TEST_F(VirtioDeviceTest, RandomNumbersComeWhenAskedFor) {
  device_.Resume();
  guest_.BringUp();
  EXPECT_EQ(device_.device_id(), VIRTIO_ID_RNG);
  guest_.queue(0).Add({{kBufferGpa, 64, true}});
  device_.Serve(0);
  EXPECT_EQ(guest_.AwaitUsed(0), std::make_pair(0u, 64u));
  EXPECT_NE(guest_.queue(0).Read(kBufferGpa, 64), std::string(64, '\0'));
}

TEST_F(VirtioDeviceTest, HugeRequestGetsSome) {
  device_.Resume();
  guest_.BringUp();
  guest_.queue(0).Add({{kBufferGpa, 0x80000, true}});
  device_.Serve(0);
  EXPECT_EQ(guest_.AwaitUsed(0).second, VirtioRng::kMaxRequestBytes);
}

TEST_F(VirtioDeviceTest, FeaturesMustBeOfferedAndVersion1) {
  const auto settles = [&](uint64_t features) {
    device_.WriteStatus(0);
    device_.WriteDriverFeatures(features);
    device_.WriteStatus(VIRTIO_CONFIG_S_FEATURES_OK);
    return (device_.status() & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  };
  const uint64_t version_1 = uint64_t{1} << VIRTIO_F_VERSION_1;
  EXPECT_TRUE(settles(version_1));
  device_.WriteDriverFeatures(device_.features());
  EXPECT_EQ(device_.driver_features(), version_1) << "settled";
  EXPECT_TRUE(settles(device_.features()));
  EXPECT_FALSE(settles(device_.features() & ~version_1));
  EXPECT_FALSE(settles(version_1 | uint64_t{1} << 50));
}

TEST_F(VirtioDeviceTest, QueueOutOfRamNeedsReset) {
  device_.Resume();
  device_.ConfigureQueue(0, [](VirtqueueState& queue) { queue.enabled = true, queue.used_gpa = ~uint64_t{3}; });
  device_.WriteDriverFeatures(device_.features());
  device_.WriteStatus(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
  EXPECT_TRUE(NeedsReset());
  device_.Serve(0);
  EXPECT_EQ(guest_.config_interrupts(), 1);
}

TEST_F(VirtioDeviceTest, DriverUpWithoutFeaturesNeedsReset) {
  device_.WriteStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  EXPECT_TRUE(NeedsReset());
}

TEST_F(VirtioDeviceTest, BrokenRequestNeedsResetAndResetMends) {
  device_.Resume();
  guest_.BringUp();
  guest_.queue(0).Offer(FakeGuest::kQueueSize);
  device_.Serve(0);
  EXPECT_TRUE(NeedsReset());
  EXPECT_EQ(guest_.config_interrupts(), 1);
  guest_.queue(0).Add({{kBufferGpa, 64, true}});
  device_.Serve(0);
  EXPECT_EQ(guest_.queue(0).TakeUsed(), std::nullopt) << "a broken device looks at nothing";
  device_.WriteStatus(0);
  EXPECT_EQ(device_.status(), 0);
  EXPECT_FALSE(device_.queue(0).enabled);
  guest_.queue(0).WriteAvailableIndex(0);
  guest_.BringUp();
  EXPECT_FALSE(NeedsReset());
  guest_.queue(0).WriteDescriptor(1, {kBufferGpa, 8, kRingWrite, 0});
  guest_.queue(0).Offer(1);
  device_.Serve(0);
  EXPECT_EQ(guest_.AwaitUsed(0), std::make_pair(1u, 8u));
}

TEST_F(VirtioDeviceTest, QueuesThatAreEnabledOrDoNotExistAreLeftAlone) {
  guest_.BringUp();
  const VirtqueueState before = device_.queue(0);
  const auto change = [](VirtqueueState& queue) { queue.used_gpa = 0; };
  device_.ConfigureQueue(0, change);
  device_.ConfigureQueue(1, change);
  device_.Notify(1);
  EXPECT_EQ(device_.queue(0), before);
  EXPECT_EQ(device_.queue(1).size, 0);
}

TEST_F(VirtioDeviceTest, QuiescedDeviceLeavesRequestsInTheirQueue) {
  guest_.BringUp();
  guest_.queue(0).Add({{kBufferGpa, 64, true}});
  device_.Serve(0);
  EXPECT_EQ(device_.SaveVirtio().queues[0].next_available, 0);
  EXPECT_FALSE(Signalled(device_.notify_fd(0)));
  device_.Resume();
  EXPECT_TRUE(Signalled(device_.notify_fd(0))) << "what came meanwhile must be looked at";
  device_.Serve(0);
  EXPECT_EQ(guest_.AwaitUsed(0).second, 64u);
  device_.Quiesce();
  device_.Quiesce();
  guest_.queue(0).Add({{kBufferGpa, 64, true}});
  device_.Serve(0);
  EXPECT_EQ(device_.SaveVirtio().queues[0].next_available, 1);
}

TEST_F(VirtioDeviceTest, FullQueueIsServedInRounds) {
  device_.Resume();
  guest_.BringUp();
  // The used ring is the available one: each answer looks like another request.
  device_.WriteStatus(0);
  device_.WriteDriverFeatures(device_.features());
  device_.WriteStatus(VIRTIO_CONFIG_S_FEATURES_OK);
  VirtqueueState layout = guest_.queue(0).layout();
  layout.used_gpa = layout.available_gpa = 0x9000;
  device_.ConfigureQueue(0, [&](VirtqueueState& queue) { queue = layout; });
  device_.WriteStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  guest_.queue(0).WriteDescriptor(0, {kBufferGpa, 8, kRingWrite, 0});
  guest_.queue(0).WriteValue(0x9002, uint16_t{8});
  device_.Serve(0);  // comes back
}

}  // namespace
}  // namespace cpr
