#ifndef VMM_VIRTIO_FAKE_DRIVER_H_
#define VMM_VIRTIO_FAKE_DRIVER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/virtio/virtqueue.h"

namespace cpr::testing {

// RAM of `size_bytes` from address 0.
GuestMemory CreateTestMemory(uint64_t size_bytes = 1 << 20);

// The driver's side of a queue: what a guest would do, well or badly. Thread-compatible.
class FakeDriver {
 public:
  struct Descriptor {
    uint64_t gpa;
    uint32_t size_bytes;
    uint16_t flags;
    uint16_t next;
  };
  struct Buffer {
    uint64_t gpa;
    uint32_t size_bytes;
    bool writable;
  };

  // The rings lie at `gpa`, in less than a page up to 64 descriptors.
  FakeDriver(const GuestMemory* memory, uint64_t gpa, uint16_t size);

  // For the device: size, rings, enabled.
  const VirtqueueState& layout() const { return layout_; }

  void WriteDescriptor(uint16_t index, const Descriptor& descriptor);
  // Makes the chain that begins with `head` available.
  void Offer(uint16_t head);
  // A chain of the next free descriptors, wrapping round; its head.
  uint16_t Add(const std::vector<Buffer>& buffers);
  // The next request that came back: its head and how many bytes were written.
  std::optional<std::pair<uint32_t, uint32_t>> TakeUsed();

  void WriteAvailableIndex(uint16_t index);
  void WriteAvailableFlags(uint16_t flags);
  void WriteUsedEvent(uint16_t index);
  uint16_t UsedFlags() const;
  uint16_t AvailableEvent() const;

  void Write(uint64_t gpa, absl::string_view bytes);
  std::string Read(uint64_t gpa, size_t size_bytes) const;
  template <typename T>
  void WriteValue(uint64_t gpa, const T& value) {
    Write(gpa, absl::string_view(reinterpret_cast<const char*>(&value), sizeof(value)));
  }

 private:
  uint16_t* Field(uint64_t gpa) const;

  const GuestMemory* const memory_;
  VirtqueueState layout_;
  uint16_t next_descriptor_ = 0, available_ = 0, used_ = 0;
};

}  // namespace cpr::testing

#endif  // VMM_VIRTIO_FAKE_DRIVER_H_
