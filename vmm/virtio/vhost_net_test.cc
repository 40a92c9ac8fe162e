#include "vmm/virtio/vhost_net.h"

// What is left out is not C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/virtio/fake_driver.h"
#include "vmm/virtio/fake_vhost.h"
#include "vmm/virtio/vhost_abi.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeDriver;
using ::cpr::testing::FakeVhost;
using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

static_assert(kVhostGetFeatures.number == VHOST_GET_FEATURES && kVhostSetFeatures.number == VHOST_SET_FEATURES);
static_assert(kVhostSetOwner.number == VHOST_SET_OWNER && kVhostResetOwner.number == VHOST_RESET_OWNER);
static_assert(kVhostSetMemory.number == VHOST_SET_MEM_TABLE && kVhostSetRingSize.number == VHOST_SET_VRING_NUM);
static_assert(kVhostSetRingAddresses.number == VHOST_SET_VRING_ADDR);
static_assert(kVhostSetRingBase.number == VHOST_SET_VRING_BASE && kVhostGetRingBase.number == VHOST_GET_VRING_BASE);
static_assert(kVhostSetRingKick.number == VHOST_SET_VRING_KICK && kVhostSetRingCall.number == VHOST_SET_VRING_CALL);
static_assert(kVhostNetSetBackend.number == VHOST_NET_SET_BACKEND);
static_assert(offsetof(VhostRingAddresses, used_hva) == offsetof(vhost_vring_addr, used_user_addr));
static_assert(sizeof(VhostMemoryRegion) == sizeof(vhost_memory_region));

constexpr int kUs = 1, kPeer = 2, kTap = 77, kKick = 100, kCall = 200;
constexpr uint64_t kVersion1 = uint64_t{1} << 32, kIndirect = uint64_t{1} << 28, kChecksum = 1;

class VhostNetTest : public ::testing::Test {
 protected:
  VhostNetTest() {
    for (unsigned i = 0; i < 2; ++i) {
      const FakeDriver driver(&memory_, 0x1000 * (i + 1), 8);
      VirtqueueState state = driver.layout();
      state.next_available = static_cast<uint16_t>(0xfff0 + i);
      rings_.push_back(*Virtqueue::Create(&memory_, state, {}));
    }
  }
  std::vector<VhostNet::Queue> Queues() const {
    std::vector<VhostNet::Queue> queues;
    for (unsigned i = 0; i < 2; ++i) {
      const int index = static_cast<int>(i);
      queues.push_back({.index = i, .rings = &rings_[i], .kick_fd = kKick + index, .call_fd = kCall + index});
    }
    return queues;
  }
  absl::Status Start(VhostNet& vhost) {
    return vhost.Start(kVersion1 | kIndirect | kChecksum, memory_, Queues(), kTap);
  }
  VhostNet Make(int process = kUs) {
    auto vhost = VhostNet::Adopt(UniqueFd(), kernel_.As(process));
    EXPECT_THAT(vhost.status(), IsOk());
    kernel_.calls.clear();
    return *std::move(vhost);
  }

  const GuestMemory memory_ = testing::CreateTestMemory();
  std::vector<Virtqueue> rings_;
  FakeVhost kernel_;
};

const char* const kStartCalls[] = {"VHOST_SET_OWNER",
                                   "VHOST_SET_FEATURES",
                                   "VHOST_SET_MEM_TABLE",
                                   "queue 0: VHOST_SET_VRING_NUM",
                                   "queue 0: VHOST_SET_VRING_BASE",
                                   "queue 0: VHOST_SET_VRING_ADDR",
                                   "queue 0: VHOST_SET_VRING_KICK",
                                   "queue 0: VHOST_SET_VRING_CALL",
                                   "queue 1: VHOST_SET_VRING_NUM",
                                   "queue 1: VHOST_SET_VRING_BASE",
                                   "queue 1: VHOST_SET_VRING_ADDR",
                                   "queue 1: VHOST_SET_VRING_KICK",
                                   "queue 1: VHOST_SET_VRING_CALL",
                                   "queue 0: VHOST_NET_SET_BACKEND",
                                   "queue 1: VHOST_NET_SET_BACKEND"};
const char* const kStopCalls[] = {"queue 0: VHOST_NET_SET_BACKEND", "queue 1: VHOST_NET_SET_BACKEND",
                                  "queue 0: VHOST_GET_VRING_BASE", "queue 1: VHOST_GET_VRING_BASE",
                                  "VHOST_RESET_OWNER"};

TEST_F(VhostNetTest, KernelLearnsWhereEverythingIs) {
  VhostNet vhost = Make();
  ASSERT_THAT(Start(vhost), IsOk());
  EXPECT_THAT(kernel_.calls, ::testing::ElementsAreArray(kStartCalls));
  EXPECT_EQ(kernel_.features, kVersion1 | kIndirect) << "checksums are the tap's affair";
  ASSERT_EQ(kernel_.memory.size(), 1u);
  EXPECT_EQ(kernel_.memory[0].gpa, 0u);
  EXPECT_EQ(kernel_.memory[0].size_bytes, memory_.size_bytes());
  EXPECT_EQ(kernel_.memory[0].hva, reinterpret_cast<uintptr_t>(memory_.mapped()[0]));
  for (unsigned i = 0; i < 2; ++i) {
    const FakeVhost::Queue& queue = kernel_.queues[i];
    const auto hva = [&](uint64_t gpa) { return kernel_.memory[0].hva + gpa; };
    EXPECT_EQ(queue.size, 8u);
    EXPECT_EQ(queue.next_available, 0xfff0u + i);
    EXPECT_EQ(queue.descriptors, hva(rings_[i].state().descriptors_gpa));
    EXPECT_EQ(queue.available, hva(rings_[i].state().available_gpa));
    EXPECT_EQ(queue.used, hva(rings_[i].state().used_gpa));
    EXPECT_EQ(queue.kick_fd, kKick + static_cast<int>(i));
    EXPECT_EQ(queue.call_fd, kCall + static_cast<int>(i));
    EXPECT_EQ(queue.backend_fd, kTap);
  }
}

TEST_F(VhostNetTest, StopsBeforeItAsksHowFarItCame) {
  VhostNet vhost = Make();
  ASSERT_THAT(Start(vhost), IsOk());
  kernel_.queues[0].next_available = 3;  // past the wrap
  kernel_.calls.clear();
  const VhostNet::Stopped stopped = vhost.Stop();
  EXPECT_THAT(stopped.status, IsOk());
  EXPECT_THAT(stopped.next_available, ElementsAre(3, 0xfff1));
  EXPECT_THAT(kernel_.calls, ::testing::ElementsAreArray(kStopCalls));
  EXPECT_EQ(kernel_.owner, 0);
}

TEST_F(VhostNetTest, EachStepThatStartsItMayBeRefused) {
  VhostNet vhost = Make();
  for (size_t step = 0; step < std::size(kStartCalls); ++step) {
    kernel_.FailOne(step, EIO);
    EXPECT_THAT(Start(vhost).message(), HasSubstr(absl::StrCat(kStartCalls[step], ": Input/output error")));
    EXPECT_EQ(kernel_.owner, 0) << kStartCalls[step];
    EXPECT_EQ(kernel_.queues[0].backend_fd, -1) << kStartCalls[step];
  }
  EXPECT_THAT(Start(vhost), IsOk());
  EXPECT_EQ(vhost.Stop().next_available.size(), 2u);
}

TEST_F(VhostNetTest, EachStepThatStopsItMayBeRefusedAndTheOthersAreTaken) {
  for (size_t step = 0; step < std::size(kStopCalls); ++step) {
    VhostNet vhost = Make();
    ASSERT_THAT(Start(vhost), IsOk());
    kernel_.calls.clear();
    kernel_.FailOne(step, EIO);
    const VhostNet::Stopped stopped = vhost.Stop();
    EXPECT_THAT(stopped.status.message(), HasSubstr(absl::StrCat(kStopCalls[step], ": Input/output error")));
    EXPECT_THAT(kernel_.calls, ::testing::ElementsAreArray(kStopCalls));
    ASSERT_EQ(stopped.next_available.size(), 2u);
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(stopped.next_available[i].has_value(), step != 2 + i) << kStopCalls[step];
    kernel_.owner = 0;
  }
}

TEST_F(VhostNetTest, GoesToAnotherProcessAndBackAgain) {
  VhostNet ours = Make(kUs), peers = Make(kPeer);
  ASSERT_THAT(Start(ours), IsOk());
  EXPECT_THAT(Start(peers).message(), HasSubstr("VHOST_SET_OWNER: Device or resource busy"));
  EXPECT_EQ(kernel_.owner, kUs) << "nobody takes it away";
  EXPECT_THAT(ours.Stop().status, IsOk());
  ASSERT_THAT(Start(peers), IsOk());
  EXPECT_EQ(kernel_.owner, kPeer);
  EXPECT_THAT(peers.Stop().status, IsOk());
  EXPECT_THAT(Start(ours), IsOk());
}

TEST_F(VhostNetTest, InterruptsGoElsewhereWhileItRuns) {
  VhostNet vhost = Make();
  ASSERT_THAT(Start(vhost), IsOk());
  EXPECT_THAT(vhost.SetCall(1, -1), IsOk());
  EXPECT_EQ(kernel_.queues[1].call_fd, -1);
  EXPECT_EQ(kernel_.queues[0].call_fd, kCall);
  kernel_.FailOne(0, EBADF);
  EXPECT_THAT(vhost.SetCall(1, 5).message(), HasSubstr("queue 1: VHOST_SET_VRING_CALL: Bad file descriptor"));
}

TEST_F(VhostNetTest, WhatCannotBeUsedShowsAtOnce) {
  EXPECT_THAT(VhostNet::Create(UniqueFd(), kernel_.As(kUs)).status(), IsOk());
  EXPECT_THAT(kernel_.calls, ElementsAre("VHOST_GET_FEATURES", "VHOST_SET_OWNER", "VHOST_RESET_OWNER"));
  kernel_.owner = kPeer;
  EXPECT_THAT(VhostNet::Create(UniqueFd(), kernel_.As(kUs)).status().message(),
              HasSubstr("VHOST_SET_OWNER: Device or resource busy"));
  EXPECT_THAT(VhostNet::Adopt(UniqueFd(), kernel_.As(kUs)).status(), IsOk()) << "it is about to be given up";
  kernel_.offered_features &= ~kIndirect;
  EXPECT_THAT(VhostNet::Adopt(UniqueFd(), kernel_.As(kUs)).status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("the kernel lacks 0x10000000")));
  kernel_.FailOne(0, ENOTTY);
  EXPECT_THAT(VhostNet::Adopt(UniqueFd(), kernel_.As(kUs)).status().message(), HasSubstr("VHOST_GET_FEATURES: "));
}

}  // namespace
}  // namespace cpr
