#include "vmm/virtio/console.h"

#include <linux/virtio_config.h>
#include <linux/virtio_console.h>

#include <cstring>

#include "gtest/gtest.h"
#include "vmm/virtio/fake_guest.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeGuest;

constexpr unsigned kControlIn = 2, kControlOut = 3, kInput = 4, kOutput = 5;
constexpr uint64_t kOutGpa = FakeGuest::kFreeGpa, kInGpa = 0x30000;

class ConsoleTest : public ::testing::Test {
 protected:
  ConsoleTest() {
    device_.Resume();
    guest_.BringUp();
    for (int i = 0; i < 8; ++i) OfferControl(i);
  }

  VirtioConsole::Port Port() {
    return {"org.qemu.guest_agent.0", [this](absl::string_view bytes) { output_.append(bytes.data(), bytes.size()); },
            [this] { ++rooms_; }, [this] { return connected_; }};
  }
  void OfferControl(int slot) { guest_.queue(kControlIn).Add({{kInGpa + 256u * slot, 256, true}}); }
  void Say(uint32_t port, uint16_t event, uint16_t value) {
    guest_.queue(kControlOut).WriteValue(kOutGpa, virtio_console_control{port, event, value});
    guest_.queue(kControlOut).Add({{kOutGpa, 8, false}});
    device_.Serve(kControlOut);
    device_.Serve(kControlIn);
  }
  // The next control message: port, event, value, and what is behind them; empty if there is none.
  std::string Heard() {
    const auto used = guest_.queue(kControlIn).TakeUsed();
    if (!used.has_value()) return "";
    virtio_console_control control;
    const std::string bytes = guest_.queue(kControlIn).Read(kInGpa + 256 * used->first, used->second);
    std::memcpy(&control, bytes.data(), sizeof(control));
    return std::to_string(control.id) + " " + std::to_string(control.event) + " " + std::to_string(control.value) +
           bytes.substr(sizeof(control));
  }
  void OpenPort() {
    Say(VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
    Say(1, VIRTIO_CONSOLE_PORT_READY, 1);
    Say(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
  }

  std::string output_;
  int rooms_ = 0;
  bool connected_ = false;
  const GuestMemory memory_ = testing::CreateTestMemory();
  VirtioConsole device_{&memory_, {Port()}};
  FakeGuest guest_{&memory_, &device_};
};

TEST_F(ConsoleTest, PortIsAnnouncedByName) {
  Say(VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
  EXPECT_EQ(Heard(), "1 1 1");
  EXPECT_EQ(Heard(), "");
  Say(1, VIRTIO_CONSOLE_PORT_READY, 1);
  EXPECT_EQ(Heard(), "1 7 1org.qemu.guest_agent.0");
  EXPECT_EQ(Heard(), "1 6 0");
  connected_ = true;
  device_.ConnectionChanged(0);
  device_.Serve(kControlIn);
  EXPECT_EQ(Heard(), "1 6 1");
}

TEST_F(ConsoleTest, MessagesWaitForBuffersWithoutPilingUp) {
  for (int i = 0; i < 20; ++i) Say(VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(Heard(), "1 1 1");
  EXPECT_EQ(Heard(), "");
  OfferControl(0);
  device_.Serve(kControlIn);
  EXPECT_EQ(Heard(), "1 1 1");
  OfferControl(1);
  device_.Serve(kControlIn);
  EXPECT_EQ(Heard(), "");
}

TEST_F(ConsoleTest, BytesGoBothWays) {
  EXPECT_EQ(device_.Room(0), 0u) << "nobody has it open";
  OpenPort();
  EXPECT_EQ(rooms_, 1);
  EXPECT_EQ(device_.Room(0), VirtioConsole::kRoomBytes);
  guest_.queue(kOutput).Write(kOutGpa, "from the guest");
  guest_.queue(kOutput).Add({{kOutGpa, 5, false}, {kOutGpa + 5, 9, false}});
  device_.Serve(kOutput);
  EXPECT_EQ(output_, "from the guest");
  guest_.queue(kInput).Add({{kInGpa, 4, true}});
  device_.Receive(0, "to the guest");
  device_.Serve(kInput);
  EXPECT_EQ(guest_.AwaitUsed(kInput).second, 4u);
  EXPECT_EQ(device_.Room(0), 0u);
  EXPECT_EQ(device_.Save().ports[0].pending_input, "he guest");
  guest_.queue(kInput).Add({{kInGpa + 4, 100, true}});
  device_.Serve(kInput);
  EXPECT_EQ(guest_.AwaitUsed(kInput).second, 8u);
  EXPECT_EQ(guest_.queue(kInput).Read(kInGpa, 12), "to the guest");
  EXPECT_EQ(rooms_, 2);
}

TEST_F(ConsoleTest, BuffersThatWaitForInputKeepNobodyBusy) {
  OpenPort();
  for (int i = 0; i < 4; ++i) guest_.queue(kInput).Add({{kInGpa, 64, true}});
  device_.Serve(kInput);
  EXPECT_EQ(guest_.queue(kInput).TakeUsed(), std::nullopt);
}

TEST_F(ConsoleTest, ClosedPortForgetsItsInput) {
  OpenPort();
  device_.Receive(0, "late");
  Say(1, VIRTIO_CONSOLE_PORT_OPEN, 0);
  EXPECT_EQ(device_.Room(0), 0u);
  EXPECT_EQ(device_.Save().ports[0].pending_input, "");
  device_.Receive(0, "later");
  EXPECT_EQ(device_.Save().ports[0].pending_input, "");
}

TEST_F(ConsoleTest, NonsenseIsPassedOver) {
  OpenPort();
  for (const uint32_t port : {0u, 2u, 0x80000000u}) Say(port, VIRTIO_CONSOLE_PORT_OPEN, 0);
  Say(1, 99, 1);
  guest_.queue(kControlOut).Add({{kOutGpa, 3, false}});
  device_.Serve(kControlOut);
  EXPECT_TRUE(device_.Save().ports[0].guest_open);
  EXPECT_EQ(device_.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
  device_.WriteStatus(0);
  EXPECT_FALSE(device_.Save().ports[0].guest_open);
}

}  // namespace
}  // namespace cpr
