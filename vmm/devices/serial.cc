#include "vmm/devices/serial.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace cpr {
namespace {

// Registers, and what bits mean, by the names of the data sheet.
enum Register : uint64_t {
  kData,
  kInterruptEnable,
  kFifoControl,
  kLineControl,
  kModemControl,
  kLineStatus,
  kModemStatus,
  kScratch
};

constexpr uint8_t kIerReceived = 0x01, kIerTransmit = 0x02, kIerLine = 0x04, kIerModem = 0x08, kIerMask = 0x0f;

constexpr uint8_t kIirModem = 0x00, kIirNone = 0x01, kIirTransmit = 0x02, kIirReceived = 0x04, kIirLine = 0x06,
                  kIirTimeout = 0x0c, kIirFifos = 0xc0;

constexpr uint8_t kFcrEnable = 0x01, kFcrClearReceiver = 0x02, kFcrKept = 0xc9;

constexpr uint8_t kLcrDivisor = 0x80;

constexpr uint8_t kMcrDtr = 0x01, kMcrRts = 0x02, kMcrOut1 = 0x04, kMcrOut2 = 0x08, kMcrLoop = 0x10, kMcrMask = 0x1f;

constexpr uint8_t kLsrData = 0x01, kLsrOverrun = 0x02, kLsrBreak = 0x10, kLsrErrors = 0x1e, kLsrTransmitEmpty = 0x60;

constexpr uint8_t kMsrCts = 0x10, kMsrDsr = 0x20, kMsrRing = 0x40, kMsrDcd = 0x80, kMsrLines = 0xf0, kMsrDeltas = 0x0f;
constexpr uint8_t kDeltaRing = 0x04;  // "trailing edge": only when RI goes off

size_t Trigger(uint8_t fifo_control) {
  constexpr size_t kTriggers[] = {1, 4, 8, 14};
  return kTriggers[fifo_control >> 6];
}

absl::Status Check(bool ok, const char* field, unsigned value) {
  return ok ? absl::OkStatus() : absl::DataLossError(absl::StrFormat("serial %s is %#x: out of range", field, value));
}

absl::Status Validate(const SerialState& s) {
  const size_t capacity = (s.fifo_control & kFcrEnable) != 0 ? Serial::kFifoBytes : 1;
  const bool fifo_ok = (s.fifo_control & ~kFcrKept) == 0 && (s.fifo_control == 0 || (s.fifo_control & kFcrEnable) != 0);
  for (const absl::Status& status : {
           Check(s.interrupt_enable <= kIerMask, "interrupt enable", s.interrupt_enable),
           Check(fifo_ok, "fifo control", s.fifo_control),
           Check(s.modem_control <= kMcrMask, "modem control", s.modem_control),
           Check((s.line_errors & ~kLsrErrors) == 0, "line errors", s.line_errors),
           Check((s.modem_lines & ~kMsrLines) == 0, "modem lines", s.modem_lines),
           Check((s.modem_deltas & ~kMsrDeltas) == 0, "modem deltas", s.modem_deltas),
           Check(s.receive_fifo.size() <= capacity, "receive fifo size", s.receive_fifo.size()),
       }) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

bool Serial::fifo_enabled() const { return (state_.fifo_control & kFcrEnable) != 0; }
bool Serial::loopback() const { return (state_.modem_control & kMcrLoop) != 0; }

// By the data sheet's priorities.
uint8_t Serial::Cause() const {
  const uint8_t enabled = state_.interrupt_enable;
  if ((enabled & kIerLine) != 0 && state_.line_errors != 0) return kIirLine;
  if ((enabled & kIerReceived) != 0 && !state_.receive_fifo.empty()) {
    const bool below = fifo_enabled() && state_.receive_fifo.size() < Trigger(state_.fifo_control);
    return below ? kIirTimeout : kIirReceived;
  }
  if ((enabled & kIerTransmit) != 0 && state_.transmit_interrupt) return kIirTransmit;
  if ((enabled & kIerModem) != 0 && state_.modem_deltas != 0) return kIirModem;
  return kIirNone;
}

void Serial::UpdateIrq() {
  const bool level = Cause() != kIirNone;
  if (std::exchange(irq_, level) != level) wiring_.irq(level);
}

void Serial::TellRoom() {
  if (wiring_.room && RoomLocked() > 0) wiring_.room();
}

uint8_t Serial::Read(uint64_t offset) {
  MutexLock lock(&mutex_);
  const bool divisor = (state_.line_control & kLcrDivisor) != 0;
  switch (offset) {
    case kData:
      return divisor ? static_cast<uint8_t>(state_.divisor_latch) : ReadReceiver();
    case kInterruptEnable:
      return divisor ? static_cast<uint8_t>(state_.divisor_latch >> 8) : state_.interrupt_enable;
    case kFifoControl:
      return ReadIdentification();
    case kLineControl:
      return state_.line_control;
    case kModemControl:
      return state_.modem_control;
    case kLineStatus:
      return ReadLineStatus();
    case kModemStatus:
      return ReadModemStatus();
    case kScratch:
      return state_.scratch;
    default:
      return 0xff;
  }
}

uint8_t Serial::ReadReceiver() {
  if (state_.receive_fifo.empty()) return 0;
  const auto value = static_cast<uint8_t>(state_.receive_fifo.front());
  state_.receive_fifo.erase(0, 1);
  UpdateIrq();
  TellRoom();
  return value;
}

// Reading acknowledges the transmitter's interrupt, if that is what is reported.
uint8_t Serial::ReadIdentification() {
  const uint8_t cause = Cause();
  if (cause == kIirTransmit) {
    state_.transmit_interrupt = false;
    UpdateIrq();
  }
  return cause | (fifo_enabled() ? kIirFifos : 0);
}

uint8_t Serial::ReadLineStatus() {
  const uint8_t data = state_.receive_fifo.empty() ? 0 : kLsrData;
  const uint8_t status = std::exchange(state_.line_errors, 0) | data | kLsrTransmitEmpty;
  UpdateIrq();
  return status;
}

uint8_t Serial::ReadModemStatus() {
  const uint8_t status = ModemLines() | std::exchange(state_.modem_deltas, 0);
  UpdateIrq();
  return status;
}

void Serial::Write(uint64_t offset, uint8_t value) {
  MutexLock lock(&mutex_);
  const bool divisor = (state_.line_control & kLcrDivisor) != 0;
  switch (offset) {
    case kData:
      if (!divisor) return Transmit(value);
      state_.divisor_latch = static_cast<uint16_t>((state_.divisor_latch & 0xff00) | value);
      return;
    case kInterruptEnable:
      if (!divisor) return WriteInterruptEnable(value);
      state_.divisor_latch = static_cast<uint16_t>((state_.divisor_latch & 0x00ff) | (value << 8));
      return;
    case kFifoControl:
      return WriteFifoControl(value);
    case kLineControl:
      state_.line_control = value;
      return;
    case kModemControl:
      return WriteModemControl(value);
    case kScratch:
      state_.scratch = value;
      return;
    default:  // both status registers are read-only
      return;
  }
}

// The byte is gone at once: the line falls while it is in the holding register and rises again, so that an
// edge-triggered interrupt controller sees each byte's interrupt.
void Serial::Transmit(uint8_t value) {
  state_.transmit_interrupt = false;
  UpdateIrq();
  if (loopback()) {
    Push(value);
  } else {
    const char byte = static_cast<char>(value);
    wiring_.output(absl::string_view(&byte, 1));
  }
  state_.transmit_interrupt = true;
  UpdateIrq();
}

void Serial::WriteInterruptEnable(uint8_t value) {
  const uint8_t changed = state_.interrupt_enable ^ value;
  state_.interrupt_enable = value & kIerMask;
  // The holding register is empty already: enabling reports it.
  if ((changed & kIerTransmit) != 0) state_.transmit_interrupt = (value & kIerTransmit) != 0;
  UpdateIrq();
}

void Serial::WriteFifoControl(uint8_t value) {
  const bool toggled = ((state_.fifo_control ^ value) & kFcrEnable) != 0;
  state_.fifo_control = (value & kFcrEnable) != 0 ? value & kFcrKept : 0;
  const bool clear = (value & kFcrEnable) != 0 && (value & kFcrClearReceiver) != 0;
  if (toggled || clear) {
    state_.receive_fifo.clear();
    TellRoom();
  }
  UpdateIrq();
}

void Serial::WriteModemControl(uint8_t value) {
  const uint8_t lines = ModemLines();
  const bool was_loopback = loopback();
  state_.modem_control = value & kMcrMask;
  NoteModemChange(lines);
  if (was_loopback && !loopback()) TellRoom();
  UpdateIrq();
}

// In loopback the modem's outputs are its inputs.
uint8_t Serial::ModemLines() const {
  if (!loopback()) return state_.modem_lines;
  uint8_t lines = 0;
  if ((state_.modem_control & kMcrRts) != 0) lines |= kMsrCts;
  if ((state_.modem_control & kMcrDtr) != 0) lines |= kMsrDsr;
  if ((state_.modem_control & kMcrOut1) != 0) lines |= kMsrRing;
  if ((state_.modem_control & kMcrOut2) != 0) lines |= kMsrDcd;
  return lines;
}

void Serial::NoteModemChange(uint8_t before) {
  const uint8_t now = ModemLines();
  auto deltas = static_cast<uint8_t>((before ^ now) >> 4);
  if ((now & kMsrRing) != 0) deltas &= static_cast<uint8_t>(~kDeltaRing);
  state_.modem_deltas |= deltas;
}

void Serial::Push(uint8_t value) {
  const size_t capacity = fifo_enabled() ? kFifoBytes : 1;
  if (state_.receive_fifo.size() < capacity) {
    state_.receive_fifo.push_back(static_cast<char>(value));
    return;
  }
  // The shift register overruns: with FIFOs the byte that came is lost, without them the one that waited.
  state_.line_errors |= kLsrOverrun;
  if (!fifo_enabled()) state_.receive_fifo[0] = static_cast<char>(value);
}

size_t Serial::RoomLocked() const {
  if (loopback()) return 0;
  const size_t capacity = fifo_enabled() ? kFifoBytes : 1;
  return capacity - state_.receive_fifo.size();
}

size_t Serial::Room() const {
  MutexLock lock(&mutex_);
  return RoomLocked();
}

void Serial::Receive(absl::string_view bytes) {
  MutexLock lock(&mutex_);
  for (const char byte : bytes) Push(static_cast<uint8_t>(byte));
  UpdateIrq();
}

void Serial::ReceiveBreak() {
  MutexLock lock(&mutex_);
  state_.line_errors |= kLsrBreak;
  Push(0);
  UpdateIrq();
}

void Serial::SetModemLines(uint8_t lines) {
  MutexLock lock(&mutex_);
  const uint8_t before = ModemLines();
  state_.modem_lines = lines & kMsrLines;
  NoteModemChange(before);
  UpdateIrq();
}

SerialState Serial::Save() const {
  MutexLock lock(&mutex_);
  return state_;
}

absl::Status Serial::Restore(const SerialState& state) {
  if (absl::Status status = Validate(state); !status.ok()) return status;
  MutexLock lock(&mutex_);
  state_ = state;
  irq_ = Cause() != kIirNone;
  wiring_.irq(irq_);
  return absl::OkStatus();
}

}  // namespace cpr
