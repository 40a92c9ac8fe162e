#ifndef TESTS_VFIO_EDU_H_
#define TESTS_VFIO_EDU_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libcpr/base/mapping.h"
#include "libcpr/vfio/device.h"

namespace cpr::testing {

// QEMU's teaching device, PCI 1234:11e8, by VFIO: a buffer of 4 KiB and a DMA engine that needs 100 ms for a transfer.
// Source: QEMU, docs/specs/edu.rst.
class Edu {
 public:
  static constexpr size_t kBufferBytes = 4096;
  static constexpr uint64_t kHighestIova = (1 << 28) - 1;

  struct Place {
    std::string address;  // 0000:00:04.0
    std::string group;    // /dev/vfio/26
    std::string node;     // /dev/vfio/devices/vfio0
  };
  // Finds the device and gives it to vfio-pci. kNotFound.
  static absl::StatusOr<Place> Bind();

  // `device` is lent to the call. Maps its registers and lets it master the bus.
  static absl::StatusOr<Edu> Create(const vfio::Device& device);

  // From memory to the buffer and from the buffer to memory; each returns at once, AwaitDma when it is done. The first
  // one may end with an interrupt, which an INTx repeats until it is acknowledged.
  void ReadFrom(uint64_t iova, uint32_t size_bytes, bool interrupt = false) {
    Start(iova, kBufferAt, size_bytes, kStart | (interrupt ? kInterrupt : 0));
  }
  void AcknowledgeInterrupt();
  void WriteTo(uint64_t iova, uint32_t size_bytes) { Start(kBufferAt, iova, size_bytes, kStart | kToMemory); }
  absl::Status AwaitDma(absl::Duration limit = absl::Seconds(60)) const;

 private:
  static constexpr uint64_t kBufferAt = 0x40000, kStart = 1, kToMemory = 2, kInterrupt = 4;

  explicit Edu(Mapping registers) : registers_(std::move(registers)) {}
  void Start(uint64_t from, uint64_t to, uint32_t size_bytes, uint64_t command);
  volatile uint64_t& Register(size_t offset) const {
    return *reinterpret_cast<volatile uint64_t*>(registers_.data() + offset);
  }

  Mapping registers_;
};

}  // namespace cpr::testing

#endif  // TESTS_VFIO_EDU_H_
