#ifndef VMM_DEVICES_ATTACH_H_
#define VMM_DEVICES_ATTACH_H_

#include <cstdint>

#include "absl/status/status.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/cmos.h"
#include "vmm/devices/ioapic.h"
#include "vmm/devices/reset_control.h"
#include "vmm/devices/serial.h"

// Puts the platform's devices at their places on a bus. The device is lent and must outlive the bus's last access.
// Errors are Bus::Add's.

namespace cpr {

inline constexpr uint64_t kCom1Port = 0x3f8;  // IRQ 4

absl::Status AttachSerial(Serial& serial, uint64_t port, Bus& ports);
absl::Status AttachCmos(Cmos& cmos, Bus& ports);
absl::Status AttachResetControl(ResetControl& reset_control, Bus& ports);
absl::Status AttachIoapic(Ioapic& ioapic, Bus& memory);

}  // namespace cpr

#endif  // VMM_DEVICES_ATTACH_H_
