#include "vmm/devices/attach.h"

#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

// Devices of byte-wide registers.
constexpr unsigned kByte = 1;

}  // namespace

absl::Status AttachSerial(Serial& serial, uint64_t port, Bus& ports) {
  return ports.Add(
      "serial", port, Serial::kPorts, kByte,
      {[&serial](uint64_t offset, unsigned) { return serial.Read(offset); },
       [&serial](uint64_t offset, unsigned, uint64_t value) { serial.Write(offset, static_cast<uint8_t>(value)); }});
}

absl::Status AttachCmos(Cmos& cmos, Bus& ports) {
  return ports.Add(
      "cmos", Cmos::kPort, Cmos::kPorts, kByte,
      {[&cmos](uint64_t offset, unsigned) { return cmos.Read(offset); },
       [&cmos](uint64_t offset, unsigned, uint64_t value) { cmos.Write(offset, static_cast<uint8_t>(value)); }});
}

absl::Status AttachResetControl(ResetControl& device, Bus& ports) {
  CPR_RETURN_IF_ERROR(ports.Add(
      "keyboard controller", ResetControl::kKeyboardCommandPort, 1, kByte,
      {[&device](uint64_t, unsigned) { return device.ReadKeyboard(); },
       [&device](uint64_t, unsigned, uint64_t value) { device.WriteKeyboard(static_cast<uint8_t>(value)); }}));
  return ports.Add(
      "reset control", ResetControl::kResetControlPort, 1, kByte,
      {[&device](uint64_t, unsigned) { return device.ReadResetControl(); },
       [&device](uint64_t, unsigned, uint64_t value) { device.WriteResetControl(static_cast<uint8_t>(value)); }});
}

absl::Status AttachIoapic(Ioapic& ioapic, Bus& memory) {
  return memory.Add("ioapic", Ioapic::kGpa, Ioapic::kWindowBytes, sizeof(uint32_t),
                    {[&ioapic](uint64_t offset, unsigned size_bytes) { return ioapic.ReadMmio(offset, size_bytes); },
                     [&ioapic](uint64_t offset, unsigned size_bytes, uint64_t value) {
                       ioapic.WriteMmio(offset, size_bytes, static_cast<uint32_t>(value));
                     }});
}

}  // namespace cpr
