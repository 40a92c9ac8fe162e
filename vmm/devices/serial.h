#ifndef VMM_DEVICES_SERIAL_H_
#define VMM_DEVICES_SERIAL_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "libcpr/base/mutex.h"

namespace cpr {

// What a 16550A remembers.
struct SerialState {
  uint16_t divisor_latch = 12;  // 9600 baud
  uint8_t interrupt_enable = 0;
  uint8_t fifo_control = 0;      // enable, DMA mode and trigger level as last written; 0 while FIFOs are off
  uint8_t line_control = 0x03;   // 8N1
  uint8_t modem_control = 0x08;  // OUT2
  uint8_t line_errors = 0;       // line status bits 1-4, not read yet
  uint8_t modem_lines = 0xb0;    // CTS, DSR and DCD as the other end drives them
  uint8_t modem_deltas = 0;      // modem status bits 0-3, not read yet
  uint8_t scratch = 0;
  std::string receive_fifo;         // oldest first
  bool transmit_interrupt = false;  // holding register empty, not acknowledged

  friend bool operator==(const SerialState&, const SerialState&) = default;
};

// A 16550A UART (National Semiconductor PC16550D): eight byte-wide registers. It sends in no time, so the transmitter
// is always empty, and reports received bytes below the trigger level at once as a character timeout rather than
// four characters later. As in QEMU, OUT2 does not gate the interrupt. Thread-safe.
class Serial {
 public:
  static constexpr size_t kFifoBytes = 16;
  static constexpr uint64_t kPorts = 8;

  // All are called with the device locked, in the order of what caused them: they must not call it back.
  struct Wiring {
    std::function<void(bool level)> irq;                  // only when it changes
    std::function<void(absl::string_view bytes)> output;  // what the guest sends
    std::function<void()> room;                           // the guest has made room for input; may be empty
  };
  explicit Serial(Wiring wiring) : wiring_(std::move(wiring)) {}

  // Registers 0 to 7.
  uint8_t Read(uint64_t offset);
  void Write(uint64_t offset, uint8_t value);

  // How many bytes the receiver takes now: none in loopback, so that input waits where it comes from.
  size_t Room() const;
  // Input from the other end. What is beyond Room is lost, as an overrun.
  void Receive(absl::string_view bytes);
  void ReceiveBreak();
  // Modem status bits 4-7 (CTS, DSR, RI, DCD) as the other end drives them.
  void SetModemLines(uint8_t lines);

  SerialState Save() const;
  // Also drives the irq line to what `state` says. kDataLoss: no guest could have brought a 16550A there; nothing has
  // changed then.
  absl::Status Restore(const SerialState& state);

 private:
  bool fifo_enabled() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool loopback() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t RoomLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t Cause() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadReceiver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadIdentification() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadLineStatus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadModemStatus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteInterruptEnable(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteFifoControl(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteModemControl(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Transmit(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Push(uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ModemLines() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteModemChange(uint8_t before) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateIrq() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Wiring wiring_;
  mutable Mutex mutex_;
  SerialState state_ ABSL_GUARDED_BY(mutex_);
  bool irq_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cpr

#endif  // VMM_DEVICES_SERIAL_H_
