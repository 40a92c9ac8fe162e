// A network device over a real tap, in a network namespace of the test's own.
#include "vmm/virtio/net.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/matchers.h"
#include "vmm/virtio/fake_guest.h"
#include "vmm/virtio/host_network.h"
#include "vmm/virtio/net_abi.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeGuest;
using ::cpr::testing::HostEnd;
using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr unsigned kReceive = VirtioNet::kReceive, kTransmit = VirtioNet::kTransmit;
constexpr uint64_t kInGpa = FakeGuest::kFreeGpa, kOutGpa = 0x80000;
constexpr MacAddress kMac = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
constexpr uint64_t kLarge = uint64_t{1} << kNetGuestTso4 | uint64_t{1} << kNetGuestTso6;
constexpr uint64_t kMergeable = uint64_t{1} << kNetMergeable;
constexpr uint32_t kRoomBytes = 2048;
constexpr size_t kHeaderBytes = Tap::kHeaderBytes;

class NetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status entered = testing::EnterNewNetwork(); !entered.ok()) GTEST_SKIP() << entered;
    auto tap = Tap::Create("tap0");
    if (!tap.ok()) GTEST_SKIP() << tap.status();
    device_ = std::make_unique<VirtioNet>(&memory_, *std::move(tap), kMac);
    CPR_ASSERT_OK_AND_ASSIGN(HostEnd host, HostEnd::Create("tap0"));
    host_.emplace(std::move(host));
    guest_ = std::make_unique<FakeGuest>(&memory_, device_.get());
    device_->Resume();
  }
  // Room for `count` frames, or parts of some, from the slot'th on.
  void Offer(unsigned slot, unsigned count, uint32_t size_bytes = kRoomBytes) {
    for (unsigned i = slot; i < slot + count; ++i) {
      guest_->queue(kReceive).Add({{kInGpa + i * kRoomBytes, size_bytes, true}});
    }
  }
  // The next part that was received: its header, if it has one, and what is behind it.
  struct Part {
    NetHeader header;
    std::string bytes;
  };
  std::optional<Part> Received(size_t header_bytes = kHeaderBytes) {
    const auto used = guest_->queue(kReceive).TakeUsed();
    if (!used.has_value()) return std::nullopt;
    const std::string all = guest_->queue(kReceive).Read(kInGpa + used->first * kRoomBytes, used->second);
    Part part = {};
    std::memcpy(&part.header, all.data(), header_bytes);
    part.bytes = all.substr(header_bytes);
    return part;
  }
  void Send(const std::string& frame) {
    guest_->queue(kTransmit).WriteValue(kOutGpa, NetHeader{});
    guest_->queue(kTransmit).Write(kOutGpa + kHeaderBytes, frame);
    guest_->queue(kTransmit).Add({{kOutGpa, static_cast<uint32_t>(kHeaderBytes + frame.size()), false}});
    device_->Serve(kTransmit);
  }

  const GuestMemory memory_ = testing::CreateTestMemory();
  std::unique_ptr<VirtioNet> device_;
  std::optional<HostEnd> host_;
  std::unique_ptr<FakeGuest> guest_;
};

TEST_F(NetTest, FramesGoBothWays) {
  guest_->BringUp(kLarge);
  Send(HostEnd::Frame("to the host"));
  EXPECT_TRUE(guest_->queue(kTransmit).TakeUsed().has_value());
  CPR_ASSERT_OK_AND_ASSIGN(const std::string frame, host_->Receive());
  EXPECT_EQ(frame, HostEnd::Frame("to the host"));

  Offer(0, 2);
  ASSERT_THAT(host_->Send(HostEnd::Frame("one")), IsOk());
  ASSERT_THAT(host_->Send(HostEnd::Frame("two")), IsOk());
  device_->Serve(kReceive);
  for (const char* text : {"one", "two"}) {
    const std::optional<Part> part = Received();
    ASSERT_TRUE(part.has_value());
    EXPECT_EQ(part->bytes, HostEnd::Frame(text));
    EXPECT_EQ(part->header.buffers, 1);
  }
  EXPECT_FALSE(Received().has_value());
}

TEST_F(NetTest, GuestKnowsItsAddress) {
  MacAddress mac;
  device_->ReadConfig(0, absl::MakeSpan(mac));
  EXPECT_EQ(mac, kMac);
  uint16_t status = 0;
  device_->ReadConfig(offsetof(NetConfig, status), absl::MakeSpan(reinterpret_cast<uint8_t*>(&status), 2));
  EXPECT_EQ(status, kNetLinkUp);
}

TEST_F(NetTest, FrameTakesAsManyBuffersAsItNeeds) {
  guest_->BringUp(kLarge);
  Offer(0, FakeGuest::kQueueSize, 32);  // all that there can be: less than a frame may need
  const std::string frame = HostEnd::Frame(std::string(76, 'x'));
  ASSERT_THAT(host_->Send(frame), IsOk());
  ASSERT_THAT(host_->Send(HostEnd::Frame("second")), IsOk());
  device_->Serve(kReceive);
  std::optional<Part> part = Received();
  ASSERT_TRUE(part.has_value());
  EXPECT_EQ(part->header.buffers, 4);  // 12 and 90 bytes
  std::string whole = part->bytes;
  for (int i = 0; i < 3; ++i) {
    part = Received(0);
    ASSERT_TRUE(part.has_value());
    whole += part->bytes;
  }
  EXPECT_EQ(whole, frame);
  part = Received();
  EXPECT_FALSE(part.has_value()) << "four buffers are not known to be enough for the second frame";
  Offer(0, 4, 32);
  device_->Serve(kReceive);
  part = Received();
  ASSERT_TRUE(part.has_value());
  EXPECT_EQ(part->header.buffers, 3);
  EXPECT_THAT(part->bytes, ::testing::StartsWith(HostEnd::Frame("second").substr(0, 20)));
}

// The driver must be asked for more room than it has given, not for any at all.
TEST_F(NetTest, FrameWaitsUntilThereIsRoomForAnyFrame) {
  guest_->BringUp(kLarge);
  ASSERT_THAT(host_->Send(HostEnd::Frame("one")), IsOk());
  Offer(0, 2, 512);
  device_->Serve(kReceive);
  EXPECT_FALSE(Received().has_value());
  EXPECT_EQ(guest_->queue(kReceive).AvailableEvent(), 2);
  Offer(2, 1, 512);
  device_->Serve(kReceive);
  EXPECT_TRUE(Received().has_value());
}

TEST_F(NetTest, WithoutMergingALongFrameIsLost) {
  guest_->BringUp(kLarge | kMergeable);
  ASSERT_THAT(host_->Send(HostEnd::Frame(std::string(1000, 'x'))), IsOk());
  ASSERT_THAT(host_->Send(HostEnd::Frame("short")), IsOk());
  Offer(0, 2, 256);
  device_->Serve(kReceive);
  const std::optional<Part> part = Received();
  ASSERT_TRUE(part.has_value());
  EXPECT_EQ(part->bytes, HostEnd::Frame("short"));
  EXPECT_FALSE(Received().has_value());
}

TEST_F(NetTest, DriverWithoutAHeaderBreaksItsDevice) {
  guest_->BringUp();
  guest_->queue(kTransmit).Add({{kOutGpa, 11, false}});
  device_->Serve(kTransmit);
  EXPECT_NE(device_->status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

TEST_F(NetTest, GuestThatCanGetsFramesWithoutChecksums) {
  CPR_ASSERT_OK_AND_ASSIGN(bool left, host_->ChecksumsLeftToTap());
  EXPECT_FALSE(left);
  guest_->BringUp();
  CPR_ASSERT_OK_AND_ASSIGN(left, host_->ChecksumsLeftToTap());
  EXPECT_TRUE(left);
  device_->WriteStatus(0);
  CPR_ASSERT_OK_AND_ASSIGN(left, host_->ChecksumsLeftToTap());
  EXPECT_FALSE(left);
}

// What comes while the guest stands still waits for the next VMM, which has the fd and the state.
TEST_F(NetTest, FramesOfThePauseWaitInTheTap) {
  guest_->BringUp(kLarge);
  Offer(0, 3);
  ASSERT_THAT(host_->Send(HostEnd::Frame("before")), IsOk());
  device_->Serve(kReceive);
  device_->Quiesce();
  ASSERT_THAT(host_->Send(HostEnd::Frame("meanwhile")), IsOk());
  device_->Serve(kReceive);
  EXPECT_EQ(Received()->bytes, HostEnd::Frame("before"));
  EXPECT_FALSE(Received().has_value());

  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd fd, DupFd(device_->tap().fd()));
  CPR_ASSERT_OK_AND_ASSIGN(Tap tap, Tap::Adopt(std::move(fd)));
  EXPECT_EQ(tap.name(), "tap0");
  VirtioNet next(&memory_, std::move(tap), kMac);
  ASSERT_THAT(next.Restore(device_->Save()), IsOk());
  next.Resume();
  next.Serve(kReceive);
  EXPECT_EQ(Received()->bytes, HostEnd::Frame("meanwhile"));
  CPR_ASSERT_OK_AND_ASSIGN(const bool left, host_->ChecksumsLeftToTap());
  EXPECT_TRUE(left);
}

TEST_F(NetTest, WhatIsNoTapIsRefused) {
  EXPECT_THAT(Tap::Create("tap0").status().message(),
              HasSubstr("could not configure /dev/net/tun (tap0): Device or resource busy"));
  CPR_ASSERT_OK_AND_ASSIGN(UniqueFd null, OpenFile("/dev/null", O_RDWR));
  EXPECT_THAT(Tap::Adopt(std::move(null)).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is not that of a tap")));
  const std::pair<short, const char*> kWrong[] = {{IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, "not a tap"},
                                                  {IFF_TAP | IFF_NO_PI, "IFF_VNET_HDR"}};
  for (const auto& [flags, message] : kWrong) {
    CPR_ASSERT_OK_AND_ASSIGN(UniqueFd fd, OpenFile("/dev/net/tun", O_RDWR));
    ifreq request = {};
    request.ifr_flags = flags;
    ASSERT_EQ(::ioctl(fd.get(), TUNSETIFF, &request), 0);
    EXPECT_THAT(Tap::Adopt(std::move(fd)).status(),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(message)));
  }
  CPR_ASSERT_OK_AND_ASSIGN(const Tap unnamed, Tap::Create(""));
  EXPECT_THAT(unnamed.name(), HasSubstr("tap"));
}

}  // namespace
}  // namespace cpr
