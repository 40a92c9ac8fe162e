#include "vmm/devices/cmos_clock.h"

#include <ctime>

namespace cpr {
namespace {

enum Index : uint8_t {
  kSeconds = 0,
  kMinutes = 2,
  kHours = 4,
  kWeekday = 6,
  kDay = 7,
  kMonth = 8,
  kYear = 9,
  kCentury = 0x32
};
constexpr uint8_t kAfternoon = 0x80;  // of the hours, in 12-hour form

using Registers = std::array<uint8_t, 128>;

bool Has(const Registers& registers, uint8_t flag) { return (registers[kCmosRegisterB] & flag) != 0; }

uint8_t Encode(const Registers& registers, int value) {
  return static_cast<uint8_t>(Has(registers, kCmosBinary) ? value : (value / 10) << 4 | value % 10);
}

int Decode(const Registers& registers, uint8_t value) {
  return Has(registers, kCmosBinary) ? value : (value >> 4) * 10 + (value & 15);
}

uint8_t EncodeHours(const Registers& registers, int hours) {
  if (Has(registers, kCmos24Hours)) return Encode(registers, hours);
  const int clock_face = hours % 12 == 0 ? 12 : hours % 12;
  return Encode(registers, clock_face) | (hours >= 12 ? kAfternoon : 0);
}

int DecodeHours(const Registers& registers, uint8_t value) {
  if (Has(registers, kCmos24Hours)) return Decode(registers, value);
  return Decode(registers, value & 0x7f) % 12 + ((value & kAfternoon) != 0 ? 12 : 0);
}

}  // namespace

bool IsCmosTime(uint8_t index) {
  switch (index) {
    case kSeconds:
    case kMinutes:
    case kHours:
    case kWeekday:
    case kDay:
    case kMonth:
    case kYear:
    case kCentury:
      return true;
    default:
      return false;
  }
}

void SetCmosTime(int64_t utc_seconds, Registers& registers) {
  const time_t time = utc_seconds;
  tm parts = {};
  ::gmtime_r(&time, &parts);
  const int year = parts.tm_year + 1900;
  registers[kSeconds] = Encode(registers, parts.tm_sec);
  registers[kMinutes] = Encode(registers, parts.tm_min);
  registers[kHours] = EncodeHours(registers, parts.tm_hour);
  registers[kWeekday] = Encode(registers, parts.tm_wday + 1);
  registers[kDay] = Encode(registers, parts.tm_mday);
  registers[kMonth] = Encode(registers, parts.tm_mon + 1);
  registers[kYear] = Encode(registers, year % 100);
  registers[kCentury] = Encode(registers, year / 100 % 100);
}

int64_t CmosTime(const Registers& registers) {
  tm parts = {};
  parts.tm_sec = Decode(registers, registers[kSeconds]);
  parts.tm_min = Decode(registers, registers[kMinutes]);
  parts.tm_hour = DecodeHours(registers, registers[kHours]);
  parts.tm_mday = Decode(registers, registers[kDay]);
  parts.tm_mon = Decode(registers, registers[kMonth]) - 1;
  parts.tm_year = Decode(registers, registers[kCentury]) * 100 + Decode(registers, registers[kYear]) - 1900;
  return ::timegm(&parts);
}

}  // namespace cpr
