#include "vmm/virtio/virtqueue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "vmm/virtio/ring.h"

namespace cpr {
namespace {

constexpr uint64_t kMaxRequestBytes = uint64_t{1} << 32;

static_assert(std::endian::native == std::endian::little, "virtio 1.x is little-endian");

// A ring's 16-bit field. The driver's side of it runs on another CPU: what the index publishes must be seen after it,
// and an index written must be seen before the other side's wish to hear of it is read, hence seq_cst.
std::atomic_ref<uint16_t> Field(absl::Span<uint8_t> ring, size_t offset) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(ring.data() + offset));
}

absl::Status Broken(absl::string_view what) { return absl::DataLossError(absl::StrCat("virtqueue: ", what)); }

absl::StatusOr<absl::Span<uint8_t>> MapRing(const GuestMemory& memory, uint64_t gpa, uint64_t size_bytes,
                                            uint64_t alignment_bytes, absl::string_view name) {
  if (gpa % alignment_bytes != 0) return Broken(absl::StrCat(name, " at 0x", absl::Hex(gpa), " is misaligned"));
  const auto ring = memory.At(gpa, size_bytes);
  if (!ring.ok()) return Broken(absl::StrCat(name, ": ", ring.status().message()));
  return *ring;
}

}  // namespace

size_t TotalBytes(absl::Span<const absl::Span<uint8_t>> buffers) {
  size_t total = 0;
  for (const absl::Span<uint8_t> buffer : buffers) total += buffer.size();
  return total;
}

std::vector<absl::Span<uint8_t>> Slice(absl::Span<const absl::Span<uint8_t>> buffers, size_t offset_bytes,
                                       size_t size_bytes) {
  std::vector<absl::Span<uint8_t>> slice;
  for (absl::Span<uint8_t> buffer : buffers) {
    const size_t skip = std::min(offset_bytes, buffer.size());
    offset_bytes -= skip;
    buffer = buffer.subspan(skip, size_bytes);
    if (buffer.empty()) continue;
    size_bytes -= buffer.size();
    slice.push_back(buffer);
  }
  return slice;
}

size_t CopyFromBuffers(absl::Span<const absl::Span<uint8_t>> buffers, absl::Span<uint8_t> data) {
  size_t done = 0;
  for (const absl::Span<uint8_t> buffer : buffers) {
    const size_t count = std::min(buffer.size(), data.size() - done);
    if (count > 0) std::memcpy(data.data() + done, buffer.data(), count);
    done += count;
  }
  return done;
}

size_t CopyToBuffers(absl::Span<const uint8_t> data, absl::Span<const absl::Span<uint8_t>> buffers) {
  size_t done = 0;
  for (const absl::Span<uint8_t> buffer : buffers) {
    const size_t count = std::min(buffer.size(), data.size() - done);
    if (count > 0) std::memcpy(buffer.data(), data.data() + done, count);
    done += count;
  }
  return done;
}

absl::StatusOr<Virtqueue::Rings> Virtqueue::MapRings(const GuestMemory& memory, const VirtqueueState& state,
                                                     Features features) {
  if (!std::has_single_bit(state.size) || state.size > kMaxSize) {
    return Broken(absl::StrCat("size ", state.size, " is not a power of two up to ", kMaxSize));
  }
  const uint64_t event_bytes = features.event_index ? sizeof(uint16_t) : 0;
  const uint64_t available_bytes = kRingEntriesAt + state.size * sizeof(uint16_t) + event_bytes;
  const uint64_t used_bytes = kRingEntriesAt + state.size * sizeof(RingUsedElement) + event_bytes;
  Rings rings;
  CPR_ASSIGN_OR_RETURN(rings.descriptors, MapRing(memory, state.descriptors_gpa, state.size * sizeof(RingDescriptor),
                                                  kRingDescriptorsAlign, "descriptor table"));
  CPR_ASSIGN_OR_RETURN(rings.available,
                       MapRing(memory, state.available_gpa, available_bytes, kRingAvailableAlign, "available ring"));
  CPR_ASSIGN_OR_RETURN(rings.used, MapRing(memory, state.used_gpa, used_bytes, kRingUsedAlign, "used ring"));
  return rings;
}

absl::Status Virtqueue::Check(const GuestMemory& memory, const VirtqueueState& state, Features features) {
  return MapRings(memory, state, features).status();
}

absl::StatusOr<Virtqueue> Virtqueue::Create(const GuestMemory* memory, const VirtqueueState& state, Features features) {
  CPR_ASSIGN_OR_RETURN(const Rings rings, MapRings(*memory, state, features));
  return Virtqueue(memory, state, features, rings);
}

void Virtqueue::TakeOver(std::optional<uint16_t> next_available) {
  state_.next_used = Field(rings_.used, kRingIndexAt).load();
  state_.next_available = next_available.value_or(state_.next_used);
  signalled_used_.reset();
}

Virtqueue::Descriptor Virtqueue::ReadDescriptor(absl::Span<const uint8_t> table, uint16_t index) {
  RingDescriptor raw;  // one copy: the guest may change it between two looks
  std::memcpy(&raw, table.data() + index * sizeof(RingDescriptor), sizeof(raw));
  return {raw.gpa, raw.size_bytes, raw.flags, raw.next};
}

uint16_t Virtqueue::AvailableIndex() const { return Field(rings_.available, kRingIndexAt).load(); }

absl::StatusOr<uint16_t> Virtqueue::CountAvailable() const {
  const auto waiting = static_cast<uint16_t>(AvailableIndex() - state_.next_available);
  if (waiting > state_.size) {
    return Broken(absl::StrCat("the driver claims ", waiting, " requests in a queue of ", state_.size));
  }
  return waiting;
}

absl::StatusOr<std::optional<DescriptorChain>> Virtqueue::Pop() {
  CPR_ASSIGN_OR_RETURN(const uint16_t available, CountAvailable());
  if (available == 0) return std::nullopt;
  const size_t slot = state_.next_available % state_.size;
  Walk walk;
  walk.chain.head = Field(rings_.available, kRingEntriesAt + slot * sizeof(uint16_t)).load();
  CPR_RETURN_IF_ERROR(WalkTable(rings_.descriptors, walk.chain.head, /*indirect=*/false, &walk));
  ++state_.next_available;
  return std::move(walk.chain);
}

absl::Status Virtqueue::WalkTable(absl::Span<const uint8_t> table, uint16_t first, bool indirect, Walk* walk) const {
  const size_t table_size = table.size() / sizeof(RingDescriptor);
  // An indirect table ends the chain that leads to it, so each table is walked once, and no longer than it is.
  size_t steps = 0;
  for (uint16_t index = first;;) {
    if (index >= table_size) return Broken(absl::StrCat("descriptor ", index, " of ", table_size));
    if (++steps > table_size) return Broken("descriptors form a loop");
    const Descriptor descriptor = ReadDescriptor(table, index);
    if ((descriptor.flags & kRingIndirect) != 0) {
      if (indirect) return Broken("an indirect table within an indirect table");
      return WalkIndirect(descriptor, walk);
    }
    CPR_RETURN_IF_ERROR(AddBuffer(descriptor, walk));
    if ((descriptor.flags & kRingNext) == 0) return absl::OkStatus();
    index = descriptor.next;
  }
}

absl::Status Virtqueue::WalkIndirect(const Descriptor& descriptor, Walk* walk) const {
  if (!features_.indirect) return Broken("an indirect descriptor that was not negotiated");
  if ((descriptor.flags & kRingNext) != 0) return Broken("an indirect descriptor with a next one");
  if (descriptor.size_bytes == 0 || descriptor.size_bytes % sizeof(RingDescriptor) != 0 ||
      descriptor.size_bytes / sizeof(RingDescriptor) > kMaxChain) {
    return Broken(absl::StrCat("an indirect table of ", descriptor.size_bytes, " bytes"));
  }
  const auto table = memory_->At(descriptor.gpa, descriptor.size_bytes);
  if (!table.ok()) return Broken(absl::StrCat("indirect table: ", table.status().message()));
  return WalkTable(*table, 0, /*indirect=*/true, walk);
}

absl::Status Virtqueue::AddBuffer(const Descriptor& descriptor, Walk* walk) const {
  if (++walk->count > kMaxChain) return Broken("a chain that is too long");
  if (descriptor.size_bytes == 0) return Broken("an empty buffer");
  walk->total_bytes += descriptor.size_bytes;
  if (walk->total_bytes >= kMaxRequestBytes) return Broken("a request of 4 GiB or more");
  const auto buffer = memory_->At(descriptor.gpa, descriptor.size_bytes);
  if (!buffer.ok()) return Broken(absl::StrCat("buffer: ", buffer.status().message()));
  DescriptorChain& chain = walk->chain;
  if ((descriptor.flags & kRingWrite) != 0) {
    chain.writable.push_back(*buffer);
    return absl::OkStatus();
  }
  if (!chain.writable.empty()) return Broken("a readable buffer behind a writable one");
  chain.readable.push_back(*buffer);
  return absl::OkStatus();
}

void Virtqueue::Push(uint16_t head, uint32_t written_bytes) { Push({{head, written_bytes}}); }

void Virtqueue::Push(absl::Span<const Used> used) {
  for (const Used& one : used) {
    const RingUsedElement element = {.head = one.head, .written_bytes = one.written_bytes};
    const size_t slot = state_.next_used++ % state_.size;
    std::memcpy(rings_.used.data() + kRingEntriesAt + slot * sizeof(RingUsedElement), &element, sizeof(element));
  }
  Field(rings_.used, kRingIndexAt).store(state_.next_used);
}

bool Virtqueue::TakeInterrupt() {
  const std::optional<uint16_t> before = std::exchange(signalled_used_, state_.next_used);
  if (before == state_.next_used) return false;
  if (!before.has_value()) return true;
  if (!features_.event_index) return (Field(rings_.available, kRingFlagsAt).load() & kRingNoInterrupt) == 0;
  const uint16_t event = Field(rings_.available, kRingEntriesAt + state_.size * sizeof(uint16_t)).load();
  // Has the index that it waits for been passed, counting modulo 2^16?
  return static_cast<uint16_t>(state_.next_used - event - 1) < static_cast<uint16_t>(state_.next_used - *before);
}

absl::StatusOr<bool> Virtqueue::ListenForMore(uint16_t known) {
  if (features_.event_index) {
    const auto next = static_cast<uint16_t>(state_.next_available + known);
    Field(rings_.used, kRingEntriesAt + state_.size * sizeof(RingUsedElement)).store(next);
  } else {
    Field(rings_.used, kRingFlagsAt).store(0);
  }
  CPR_ASSIGN_OR_RETURN(const uint16_t available, CountAvailable());
  return available > known;
}

void Virtqueue::SuppressNotifications() {
  // With event indices the old index, which the driver has passed, does it.
  if (!features_.event_index) Field(rings_.used, kRingFlagsAt).store(kRingNoNotify);
}

}  // namespace cpr
