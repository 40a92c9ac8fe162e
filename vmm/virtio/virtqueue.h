#ifndef VMM_VIRTIO_VIRTQUEUE_H_
#define VMM_VIRTIO_VIRTQUEUE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "vmm/machine/guest_memory.h"

namespace cpr {

// Where a queue is and how far it has come.
struct VirtqueueState {
  uint16_t size = 0;  // descriptors; a power of two
  bool enabled = false;
  uint64_t descriptors_gpa = 0;
  uint64_t available_gpa = 0;   // the driver area
  uint64_t used_gpa = 0;        // the device area
  uint16_t next_available = 0;  // of the driver's entries, which number wraps at 2^16
  uint16_t next_used = 0;       // likewise, of the device's

  friend bool operator==(const VirtqueueState&, const VirtqueueState&) = default;
};

// Buffers that the driver has made available as one request. They are the guest's RAM: it may change under the reader,
// so what is judged must be copied first.
struct DescriptorChain {
  uint16_t head = 0;
  std::vector<absl::Span<uint8_t>> readable;
  std::vector<absl::Span<uint8_t>> writable;
};

size_t TotalBytes(absl::Span<const absl::Span<uint8_t>> buffers);
// The part of `buffers` that begins after `offset_bytes` and has at most `size_bytes`.
std::vector<absl::Span<uint8_t>> Slice(absl::Span<const absl::Span<uint8_t>> buffers, size_t offset_bytes,
                                       size_t size_bytes = SIZE_MAX);
// Copy as much as there is on both sides; how many bytes that was.
size_t CopyFromBuffers(absl::Span<const absl::Span<uint8_t>> buffers, absl::Span<uint8_t> data);
size_t CopyToBuffers(absl::Span<const uint8_t> data, absl::Span<const absl::Span<uint8_t>> buffers);

// The device's side of a split virtqueue in guest RAM, with indirect descriptors and, if negotiated, event indices.
// Thread-compatible; driver and device need no lock between them.
// What a driver may not do is kDataLoss and says what it was; the queue is not to be used any more then.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 2.7.
class Virtqueue {
 public:
  static constexpr uint16_t kMaxSize = 1024;
  // Linux makes indirect chains longer than its queue; QEMU's limit is the same.
  static constexpr size_t kMaxChain = 1024;

  struct Features {
    bool event_index = false;
    bool indirect = false;
  };
  // `memory` must outlive the queue. kDataLoss: the size is none, or not all rings lie in RAM, aligned.
  static absl::StatusOr<Virtqueue> Create(const GuestMemory* memory, const VirtqueueState& state, Features features);
  // The same checks alone.
  static absl::Status Check(const GuestMemory& memory, const VirtqueueState& state, Features features);

  // Where the queue is mapped; lent by the memory.
  struct Rings {
    absl::Span<uint8_t> descriptors, available, used;
  };
  const Rings& rings() const { return rings_; }
  // Somebody else has served the queue, and is done with what they have begun. Their next request would have been
  // `next_available`; empty: nobody knows, so it is the first that they have not given back.
  void TakeOver(std::optional<uint16_t> next_available);

  // The next request, if there is one. It stays the device's until Push.
  absl::StatusOr<std::optional<DescriptorChain>> Pop();
  // How many there are. kDataLoss: the driver claims more entries than the queue has.
  absl::StatusOr<uint16_t> CountAvailable() const;
  // The last `count` that were popped are the driver's again, and the next to be popped.
  void Unpop(uint16_t count) { state_.next_available = static_cast<uint16_t>(state_.next_available - count); }
  // Gives a request back, `written_bytes` of its writable buffers filled; or several, which the driver sees all at
  // once.
  struct Used {
    uint16_t head = 0;
    uint32_t written_bytes = 0;
  };
  void Push(uint16_t head, uint32_t written_bytes);
  void Push(absl::Span<const Used> used);

  // Whether the driver wants an interrupt for what was pushed since this was called last. After Create: always, as
  // whoever had the queue before may not have come to it.
  bool TakeInterrupt();
  // Asks the driver for a notification of the next request, or of the one after `known` that are known to be there.
  // True: there is one already, look again.
  absl::StatusOr<bool> ListenForMore(uint16_t known = 0);
  // Spares the driver notifications while the device is at work. A hint: some come nevertheless.
  void SuppressNotifications();

  // As it is now.
  const VirtqueueState& state() const { return state_; }

 private:
  struct Descriptor {
    uint64_t gpa;
    uint32_t size_bytes;
    uint16_t flags;
    uint16_t next;
  };
  // Collects one chain.
  struct Walk {
    DescriptorChain chain;
    size_t count = 0;
    uint64_t total_bytes = 0;
  };

  Virtqueue(const GuestMemory* memory, const VirtqueueState& state, Features features, Rings rings)
      : memory_(memory), state_(state), features_(features), rings_(rings) {}
  static absl::StatusOr<Rings> MapRings(const GuestMemory& memory, const VirtqueueState& state, Features features);
  static Descriptor ReadDescriptor(absl::Span<const uint8_t> table, uint16_t index);

  uint16_t AvailableIndex() const;
  absl::Status WalkTable(absl::Span<const uint8_t> table, uint16_t first, bool indirect, Walk* walk) const;
  absl::Status WalkIndirect(const Descriptor& descriptor, Walk* walk) const;
  absl::Status AddBuffer(const Descriptor& descriptor, Walk* walk) const;

  const GuestMemory* memory_;
  VirtqueueState state_;
  Features features_;
  Rings rings_;
  // Of `next_used` when the driver was last asked; empty: it has to be interrupted whatever it says.
  std::optional<uint16_t> signalled_used_;
};

}  // namespace cpr

#endif  // VMM_VIRTIO_VIRTQUEUE_H_
