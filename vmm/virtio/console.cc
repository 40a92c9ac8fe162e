#include "vmm/virtio/console.h"

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

constexpr unsigned kControlIn = 2, kControlOut = 3, kFirstPortQueue = 4;

// Two for the port 0 that does not exist, two for control, two for each port.
std::vector<uint16_t> QueueSizes(size_t ports) {
  return std::vector<uint16_t>(kFirstPortQueue + 2 * ports, VirtioConsole::kQueueSize);
}

std::string Message(uint32_t number, uint16_t event, uint16_t value) {
  const virtio_console_control control = {.id = number, .event = event, .value = value};
  return {reinterpret_cast<const char*>(&control), sizeof(control)};
}

absl::Span<const uint8_t> BytesOf(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

VirtioConsole::VirtioConsole(const GuestMemory* memory, std::vector<Port> ports)
    : VirtioDevice(memory, {.device_id = VIRTIO_ID_CONSOLE,
                            .features = uint64_t{1} << VIRTIO_CONSOLE_F_MULTIPORT,
                            .queue_sizes = QueueSizes(ports.size())}),
      ports_(std::move(ports)) {
  MutexLock lock(&mutex_);
  OnReset();
}

void VirtioConsole::OnReset() {
  driver_ready_ = false;
  states_.clear();
  for (const Port& port : ports_) states_.push_back({.name = port.name});
}

std::vector<uint8_t> VirtioConsole::Config() const {
  virtio_console_config config = {};
  config.max_nr_ports = static_cast<uint32_t>(ports_.size()) + 1;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&config);
  return {bytes, bytes + sizeof(config)};
}

absl::StatusOr<VirtioDevice::Served> VirtioConsole::ServeOne(unsigned index, Virtqueue& queue) {
  if (index == kControlIn) return SendDue(queue);
  if (index == kControlOut) return ServeControlOut(queue);
  if (index < kFirstPortQueue) return Served::kIdle;
  const size_t port = (index - kFirstPortQueue) / 2;
  return index == InputQueue(port) ? DeliverInput(port, queue) : ServeOutput(port, queue);
}

absl::StatusOr<VirtioDevice::Served> VirtioConsole::ServeControlOut(Virtqueue& queue) {
  CPR_ASSIGN_OR_RETURN(const std::optional<DescriptorChain> chain, queue.Pop());
  if (!chain.has_value()) return Served::kEmpty;
  virtio_console_control control;
  const auto bytes = absl::MakeSpan(reinterpret_cast<uint8_t*>(&control), sizeof(control));
  // A message that is too short says nothing.
  if (CopyFromBuffers(chain->readable, bytes) == bytes.size()) Obey(control.id, control.event, control.value);
  queue.Push(chain->head, 0);
  SignalQueue(kControlOut);
  if (AnyDue()) Notify(kControlIn);
  return Served::kOne;
}

void VirtioConsole::Obey(uint32_t number, uint16_t event, uint16_t value) {
  if (event == VIRTIO_CONSOLE_DEVICE_READY) {
    driver_ready_ = value == 1;
    for (VirtioConsolePortState& state : states_) state.announce = driver_ready_;
    return;
  }
  if (number == 0 || number > states_.size()) return;
  const size_t port = number - 1;
  VirtioConsolePortState& state = states_[port];
  if (event == VIRTIO_CONSOLE_PORT_READY) {
    state.guest_ready = value == 1;
    state.tell_name = state.guest_ready && !state.name.empty();
    state.tell_open = state.guest_ready;
  } else if (event == VIRTIO_CONSOLE_PORT_OPEN) {
    state.guest_open = value == 1;
    if (!state.guest_open) state.pending_input.clear();  // for whoever had it open
    if (state.guest_open) ports_[port].room();
  }
}

bool VirtioConsole::AnyDue() const {
  return std::any_of(states_.begin(), states_.end(),
                     [](const auto& state) { return state.announce || state.tell_name || state.tell_open; });
}

std::string VirtioConsole::TakeDue() {
  for (size_t port = 0; port < states_.size(); ++port) {
    VirtioConsolePortState& state = states_[port];
    if (std::exchange(state.announce, false)) return Message(NumberOf(port), VIRTIO_CONSOLE_PORT_ADD, 1);
    if (std::exchange(state.tell_name, false)) {
      return Message(NumberOf(port), VIRTIO_CONSOLE_PORT_NAME, 1) + state.name;
    }
    if (std::exchange(state.tell_open, false)) {
      return Message(NumberOf(port), VIRTIO_CONSOLE_PORT_OPEN, ports_[port].connected() ? 1 : 0);
    }
  }
  return "";
}

absl::StatusOr<VirtioDevice::Served> VirtioConsole::SendDue(Virtqueue& queue) {
  if (!AnyDue()) return Served::kIdle;
  CPR_ASSIGN_OR_RETURN(const std::optional<DescriptorChain> chain, queue.Pop());
  if (!chain.has_value()) return Served::kEmpty;
  const std::string message = TakeDue();
  queue.Push(chain->head, static_cast<uint32_t>(CopyToBuffers(BytesOf(message), chain->writable)));
  SignalQueue(kControlIn);
  return Served::kOne;
}

absl::StatusOr<VirtioDevice::Served> VirtioConsole::ServeOutput(size_t port, Virtqueue& queue) {
  CPR_ASSIGN_OR_RETURN(const std::optional<DescriptorChain> chain, queue.Pop());
  if (!chain.has_value()) return Served::kEmpty;
  // A guest that sends more at once loses the rest: the main loop has other things to do.
  for (const absl::Span<uint8_t> buffer : Slice(chain->readable, 0, 64 * kRoomBytes)) {
    ports_[port].output({reinterpret_cast<const char*>(buffer.data()), buffer.size()});
  }
  queue.Push(chain->head, 0);
  SignalQueue(InputQueue(port) + 1);
  return Served::kOne;
}

absl::StatusOr<VirtioDevice::Served> VirtioConsole::DeliverInput(size_t port, Virtqueue& queue) {
  std::string& pending = states_[port].pending_input;
  if (pending.empty()) return Served::kIdle;
  CPR_ASSIGN_OR_RETURN(const std::optional<DescriptorChain> chain, queue.Pop());
  if (!chain.has_value()) return Served::kEmpty;
  const size_t copied = CopyToBuffers(BytesOf(pending), chain->writable);
  pending.erase(0, copied);
  if (pending.empty()) ports_[port].room();
  queue.Push(chain->head, static_cast<uint32_t>(copied));
  SignalQueue(InputQueue(port));
  return Served::kOne;
}

size_t VirtioConsole::Room(size_t port) const {
  MutexLock lock(&mutex_);
  const VirtioConsolePortState& state = states_[port];
  return state.guest_open && state.pending_input.empty() ? kRoomBytes : 0;
}

void VirtioConsole::Receive(size_t port, absl::string_view bytes) {
  MutexLock lock(&mutex_);
  VirtioConsolePortState& state = states_[port];
  if (!state.guest_open) return;
  state.pending_input.append(bytes.data(), std::min(bytes.size(), kRoomBytes - state.pending_input.size()));
  Notify(InputQueue(port));
}

void VirtioConsole::ConnectionChanged(size_t port) {
  MutexLock lock(&mutex_);
  if (!states_[port].guest_ready) return;
  states_[port].tell_open = true;
  Notify(kControlIn);
}

VirtioConsoleState VirtioConsole::Save() const {
  VirtioConsoleState state{.device = SaveVirtio()};
  MutexLock lock(&mutex_);
  state.ports = states_;
  state.driver_ready = driver_ready_;
  return state;
}

absl::Status VirtioConsole::Check(const VirtioConsoleState& state) const {
  CPR_RETURN_IF_ERROR(CheckVirtio(state.device));
  const auto bad = [](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("virtio-serial state: ", what));
  };
  if (state.ports.size() != ports_.size()) {
    return bad(absl::StrCat(state.ports.size(), " ports, here are ", ports_.size()));
  }
  for (size_t i = 0; i < ports_.size(); ++i) {
    const VirtioConsolePortState& port = state.ports[i];
    if (port.name != ports_[i].name) return bad(absl::StrCat("port '", port.name, "', here is '", ports_[i].name, "'"));
    if (port.pending_input.size() > kRoomBytes) return bad(absl::StrCat("too much input at port ", i));
    if (!port.guest_open && !port.pending_input.empty()) return bad(absl::StrCat("input at closed port ", i));
    if (port.announce && !state.driver_ready) return bad(absl::StrCat("nobody to announce port ", i, " to"));
    if ((port.tell_name || port.tell_open) && !port.guest_ready) return bad(absl::StrCat("port ", i, " is not ready"));
  }
  return absl::OkStatus();
}

absl::Status VirtioConsole::Restore(const VirtioConsoleState& state) {
  MutexLock lock(&mutex_);
  CPR_RETURN_IF_ERROR(Check(state));
  RestoreVirtio(state.device);
  states_ = state.ports;
  driver_ready_ = state.driver_ready;
  return absl::OkStatus();
}

}  // namespace cpr
