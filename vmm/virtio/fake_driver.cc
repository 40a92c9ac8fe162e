#include "vmm/virtio/fake_driver.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "vmm/machine/ram_layout.h"
#include "vmm/virtio/ring.h"

namespace cpr::testing {
namespace {

std::atomic_ref<uint16_t> Atomic(uint16_t* field) { return std::atomic_ref<uint16_t>(*field); }

}  // namespace

GuestMemory CreateTestMemory(uint64_t size_bytes) {
  auto blocks =
      CreateGuestRam({.kind = MemoryBackendKind::kMemfd, .id = "ram0", .size_bytes = size_bytes, .share = true});
  if (!blocks.ok()) std::abort();
  auto memory = GuestMemory::Create(*std::move(blocks));
  if (!memory.ok()) std::abort();
  return *std::move(memory);
}

FakeDriver::FakeDriver(const GuestMemory* memory, uint64_t gpa, uint16_t size)
    : memory_(memory),
      layout_({.size = size,
               .enabled = true,
               .descriptors_gpa = gpa,
               .available_gpa = gpa + size * sizeof(RingDescriptor),
               .used_gpa = gpa + size * sizeof(RingDescriptor) + (6 + size * sizeof(uint16_t) + 3) / 4 * 4}) {}

void FakeDriver::Write(uint64_t gpa, absl::string_view bytes) {
  std::memcpy(memory_->At(gpa, bytes.size())->data(), bytes.data(), bytes.size());
}

std::string FakeDriver::Read(uint64_t gpa, size_t size_bytes) const {
  return std::string(reinterpret_cast<const char*>(memory_->At(gpa, size_bytes)->data()), size_bytes);
}

uint16_t* FakeDriver::Field(uint64_t gpa) const { return reinterpret_cast<uint16_t*>(memory_->At(gpa, 2)->data()); }

void FakeDriver::WriteDescriptor(uint16_t index, const Descriptor& descriptor) {
  const RingDescriptor raw = {descriptor.gpa, descriptor.size_bytes, descriptor.flags, descriptor.next};
  WriteValue(layout_.descriptors_gpa + index * sizeof(raw), raw);
}

void FakeDriver::Offer(uint16_t head) {
  *Field(layout_.available_gpa + 4 + available_ % layout_.size * 2) = head;
  WriteAvailableIndex(static_cast<uint16_t>(available_ + 1));
}

uint16_t FakeDriver::Add(const std::vector<Buffer>& buffers) {
  const auto slot = [this](size_t i) { return static_cast<uint16_t>((next_descriptor_ + i) % layout_.size); };
  const uint16_t head = slot(0);
  for (size_t i = 0; i < buffers.size(); ++i) {
    const bool last = i + 1 == buffers.size();
    const int flags = (buffers[i].writable ? kRingWrite : 0) | (last ? 0 : kRingNext);
    WriteDescriptor(slot(i), {buffers[i].gpa, buffers[i].size_bytes, static_cast<uint16_t>(flags), slot(i + 1)});
  }
  next_descriptor_ = slot(buffers.size());
  Offer(head);
  return head;
}

std::optional<std::pair<uint32_t, uint32_t>> FakeDriver::TakeUsed() {
  WriteUsedEvent(used_);  // where there are event indices: the next one is wanted
  if (Atomic(Field(layout_.used_gpa + 2)).load() == used_) return std::nullopt;
  RingUsedElement element;
  const std::string bytes = Read(layout_.used_gpa + 4 + used_++ % layout_.size * sizeof(element), sizeof(element));
  std::memcpy(&element, bytes.data(), sizeof(element));
  return std::make_pair(element.head, element.written_bytes);
}

void FakeDriver::WriteAvailableIndex(uint16_t index) {
  available_ = index;
  Atomic(Field(layout_.available_gpa + 2)).store(index);
}

void FakeDriver::WriteAvailableFlags(uint16_t flags) { Atomic(Field(layout_.available_gpa)).store(flags); }

void FakeDriver::WriteUsedEvent(uint16_t index) {
  Atomic(Field(layout_.available_gpa + 4 + layout_.size * 2)).store(index);
}

uint16_t FakeDriver::UsedFlags() const { return Atomic(Field(layout_.used_gpa)).load(); }

uint16_t FakeDriver::AvailableEvent() const {
  return Atomic(Field(layout_.used_gpa + 4 + layout_.size * sizeof(RingUsedElement))).load();
}

}  // namespace cpr::testing
