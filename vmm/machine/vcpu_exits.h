#ifndef VMM_MACHINE_VCPU_EXITS_H_
#define VMM_MACHINE_VCPU_EXITS_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace cpr {

// Why a guest cannot, or does not want to, go on.
enum class GuestEvent {
  kUnspecified,
  kReset,          // it asked for a reset, or a vCPU shut down (triple fault), which resets a PC
  kShutdown,       // it asked to be powered off
  kSuspend,        // it suspended itself to RAM
  kPanic,          // it reported a crash
  kInternalError,  // KVM cannot run it, or a device of the host has failed: the text says what was said
};

// Where a vCPU's exits go. Called on vCPU threads, several at a time.
class VcpuExits {
 public:
  virtual ~VcpuExits() = default;

  // One access of 1, 2, 4 or 8 bytes. Reads fill `data`, which holds ones: what nobody answers reads as.
  virtual void ReadPort(uint16_t port, absl::Span<uint8_t> data) = 0;
  virtual void WritePort(uint16_t port, absl::Span<const uint8_t> data) = 0;
  virtual void ReadMmio(uint64_t gpa, absl::Span<uint8_t> data) = 0;
  virtual void WriteMmio(uint64_t gpa, absl::Span<const uint8_t> data) = 0;
  // The guest ended a level-triggered interrupt of the user-space IOAPIC.
  virtual void EndOfInterrupt(uint8_t vector) = 0;

  // vCPU `vcpu_id` has parked by itself; `text` says why.
  virtual void GuestStopped(uint32_t vcpu_id, GuestEvent event, const std::string& text) = 0;
};

}  // namespace cpr

#endif  // VMM_MACHINE_VCPU_EXITS_H_
