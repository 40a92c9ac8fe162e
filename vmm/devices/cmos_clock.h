#ifndef VMM_DEVICES_CMOS_CLOCK_H_
#define VMM_DEVICES_CMOS_CLOCK_H_

#include <array>
#include <cstdint>

// The time of day as CMOS registers show it. Thread-safe functions.

namespace cpr {

inline constexpr uint8_t kCmosRegisterB = 0x0b;
inline constexpr uint8_t kCmosHalted = 0x80, kCmosBinary = 0x04, kCmos24Hours = 0x02;  // of register B

// True for the registers that make up the time of day: 0, 2, 4, 6 to 9 and the century at 0x32.
bool IsCmosTime(uint8_t index);

// Sets the time of day in `registers` to `utc_seconds`, in the form that register B asks for.
void SetCmosTime(int64_t utc_seconds, std::array<uint8_t, 128>& registers);

// What the time of day in `registers` means; fields beyond their range carry over, as a clock would when it ticks on.
int64_t CmosTime(const std::array<uint8_t, 128>& registers);

}  // namespace cpr

#endif  // VMM_DEVICES_CMOS_CLOCK_H_
