// A whole serial line: a socket's client types faster than the guest's 16 bytes of FIFO take it, the guest echoes from
// a thread of its own, and halfway the host's side is handed over.

#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/preserve/stream_socket.h"
#include "libcpr/testing/matchers.h"
#include "vmm/chardev/chardev.h"
#include "vmm/devices/serial.h"
#include "vmm/event_loop/event_loop.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;

// One VMM's serial line: chardev and UART joined as a machine joins them.
struct Line {
  explicit Line(std::unique_ptr<Chardev> device)
      : chardev(std::move(device)),
        serial({.irq = [](bool) {},
                .output = [this](absl::string_view bytes) { chardev->Write(bytes); },
                .room = [this] { chardev->AcceptInput(); }}) {
    chardev->SetCallbacks({.room = [this] { return serial.Room(); },
                           .receive = [this](absl::string_view bytes) { serial.Receive(bytes); },
                           .connection = {}});
  }
  // What a guest does that echoes by polling, until it has seen `bytes`.
  void Echo(size_t bytes) {
    for (size_t seen = 0; seen < bytes;) {
      if ((serial.Read(5) & 1) == 0) continue;
      serial.Write(0, serial.Read(0));
      ++seen;
    }
  }
  // Runs the guest on a thread, the event loop here, until the guest has echoed `bytes`.
  void RunGuest(EventLoop& loop, size_t bytes) {
    std::thread vcpu([&] {
      Echo(bytes);
      loop.Stop();
    });
    loop.Run();
    vcpu.join();
  }

  std::unique_ptr<Chardev> chardev;
  Serial serial;
};

TEST(SerialLineTest, NothingTypedIsLostOverAHandover) {
  std::string folder = "/tmp/serial_line.XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const ChardevConfig config = {.kind = ChardevConfig::Kind::kSocket, .path = folder + "/x", .server = true};
  CPR_ASSERT_OK_AND_ASSIGN(const auto loop, EventLoop::Create());
  CPR_ASSERT_OK_AND_ASSIGN(auto device, Chardev::Create(config, loop.get()));
  auto old_line = std::make_unique<Line>(std::move(device));
  old_line->serial.Write(2, 0x01);
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd client, ConnectUnixStream(config.path));
  std::string typed;
  for (int i = 0; typed.size() < 20000; ++i) typed += std::to_string(i) + ",";
  ASSERT_THAT(WriteAll(client.get(), typed), IsOk());

  const size_t half = typed.size() / 2;
  old_line->RunGuest(*loop, half);
  old_line->chardev->HoldConnections();
  std::map<std::string, UniqueFd> fds;
  for (const ChardevFd& fd : old_line->chardev->Fds()) fds[fd.name] = *DupFd(fd.fd);
  CPR_ASSERT_OK_AND_ASSIGN(device, Chardev::Adopt(config, std::move(fds), loop.get()));
  Line new_line(std::move(device));
  old_line->chardev->Quiesce();
  ASSERT_THAT(new_line.chardev->Restore(old_line->chardev->Save()), IsOk());
  ASSERT_THAT(new_line.serial.Restore(old_line->serial.Save()), IsOk());
  old_line->chardev->ReleaseToPeer();
  old_line.reset();
  new_line.chardev->Resume();
  new_line.RunGuest(*loop, typed.size() - half);

  std::string echoed(typed.size(), '\0');
  for (size_t done = 0; done < echoed.size();) {
    const ssize_t n = ::read(client.get(), echoed.data() + done, echoed.size() - done);
    if (n > 0) done += static_cast<size_t>(n);
    if (n < 0 && errno == EAGAIN) loop->RunOnce(absl::ZeroDuration());
  }
  EXPECT_EQ(echoed, typed);
  EXPECT_EQ(new_line.chardev->Save().dropped_bytes, 0u);
  new_line.chardev.reset();
  ::rmdir(folder.c_str());
}

}  // namespace
}  // namespace cpr
