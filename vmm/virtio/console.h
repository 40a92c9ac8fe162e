#ifndef VMM_VIRTIO_CONSOLE_H_
#define VMM_VIRTIO_CONSOLE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/virtio/device.h"

namespace cpr {

// What a port remembers.
struct VirtioConsolePortState {
  std::string name;
  std::string pending_input;  // taken from the other end, for want of buffers not the guest's yet
  // Control messages that are due.
  bool announce = false;
  bool tell_name = false;
  bool tell_open = false;
  bool guest_ready = false;
  bool guest_open = false;

  friend bool operator==(const VirtioConsolePortState&, const VirtioConsolePortState&) = default;
};

struct VirtioConsoleState {
  VirtioState device;
  std::vector<VirtioConsolePortState> ports;
  bool driver_ready = false;

  friend bool operator==(const VirtioConsoleState&, const VirtioConsoleState&) = default;
};

// A virtio console device with named ports (virtserialport), /dev/virtio-ports/NAME in a Linux guest. Port 0 is kept
// for a console, as in QEMU, and does not exist; `ports` are 1, 2, ... Thread-safe; Serve is cheap enough for the main
// loop. Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.3.
class VirtioConsole final : public VirtioDevice {
 public:
  static constexpr uint16_t kQueueSize = 128;
  static constexpr size_t kMaxPorts = 30;
  static constexpr size_t kMaxNameBytes = 128;
  static constexpr size_t kRoomBytes = 4096;

  // All are called with the device locked: they must not call it back.
  struct Port {
    std::string name;
    std::function<void(absl::string_view bytes)> output;  // what the guest sends
    std::function<void()> room;                           // there is room for input again
    std::function<bool()> connected;                      // is there anybody at the other end
  };
  // At most kMaxPorts.
  VirtioConsole(const GuestMemory* memory, std::vector<Port> ports);

  // `port` counts from 0 here. How many bytes of input it takes now: none until the guest has opened it.
  size_t Room(size_t port) const;
  // At most Room bytes.
  void Receive(size_t port, absl::string_view bytes);
  // Whether somebody is there has changed, as the port's `connected` will say.
  void ConnectionChanged(size_t port);

  VirtioConsoleState Save() const;
  // kDataLoss: no driver could have brought this device there; nothing has changed then.
  absl::Status Restore(const VirtioConsoleState& state);

 private:
  static uint16_t NumberOf(size_t port) { return static_cast<uint16_t>(port + 1); }
  static unsigned InputQueue(size_t port) { return 4 + 2 * static_cast<unsigned>(port); }

  absl::StatusOr<Served> ServeOne(unsigned index, Virtqueue& queue) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnReset() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<uint8_t> Config() const override;

  absl::StatusOr<Served> ServeControlOut(Virtqueue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Served> ServeOutput(size_t port, Virtqueue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Served> SendDue(Virtqueue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Served> DeliverInput(size_t port, Virtqueue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Obey(uint32_t number, uint16_t event, uint16_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The next message that is due, which is not due then any more.
  std::string TakeDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AnyDue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Check(const VirtioConsoleState& state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<Port> ports_;
  bool driver_ready_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<VirtioConsolePortState> states_ ABSL_GUARDED_BY(mutex_);  // of ports_
};

}  // namespace cpr

#endif  // VMM_VIRTIO_CONSOLE_H_
