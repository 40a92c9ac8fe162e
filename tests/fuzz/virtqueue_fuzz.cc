// Virtqueues from a hostile guest.
//
// The input is the first page of the guest's RAM, with the rings in it, after eight bytes: features, size, where the
// rings are. Promises: Pop comes back; what it hands out lies within RAM, readable before writable, and no more than
// it says it takes; nothing but the used ring is written.
#include <cstring>
#include <optional>
#include <string>

#include "tests/fuzz/fuzz.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/virtio/fake_driver.h"
#include "vmm/virtio/virtqueue.h"

namespace {

using ::cpr::DescriptorChain;
using ::cpr::GuestMemory;
using ::cpr::Virtqueue;
using ::cpr::VirtqueueState;

constexpr size_t kRamBytes = 4096, kHeaderBytes = 8;

const GuestMemory& Ram() {
  static const GuestMemory* const ram = new GuestMemory(cpr::testing::CreateTestMemory(kRamBytes));
  return *ram;
}

VirtqueueState LayoutOf(const uint8_t* header) {
  VirtqueueState state;
  state.enabled = true;
  state.size = static_cast<uint16_t>(1 << (header[1] % 8));
  if ((header[0] & 4) != 0) state.size = header[1];
  state.descriptors_gpa = header[2] * 16u;
  state.available_gpa = header[3] * 16u;
  state.used_gpa = header[4] * 16u;
  state.next_available = header[5];
  state.next_used = header[6];
  return state;
}

void CheckBuffers(const std::vector<absl::Span<uint8_t>>& buffers) {
  const absl::Span<uint8_t> ram = *Ram().At(0, kRamBytes);
  for (const absl::Span<uint8_t> buffer : buffers) {
    FUZZ_CHECK(!buffer.empty());
    FUZZ_CHECK(buffer.data() >= ram.data() && buffer.data() + buffer.size() <= ram.data() + ram.size());
  }
}

// Serves what there is; no driver can make more than a queue's worth of requests at once.
bool Serve(Virtqueue& queue) {
  for (size_t served = 0; served <= queue.state().size; ++served) {
    const auto popped = queue.Pop();
    if (!popped.ok()) return false;
    if (!popped->has_value()) return true;
    const DescriptorChain& chain = **popped;
    FUZZ_CHECK(chain.readable.size() + chain.writable.size() <= Virtqueue::kMaxChain);
    CheckBuffers(chain.readable);
    CheckBuffers(chain.writable);
    queue.Push(chain.head, static_cast<uint32_t>(cpr::TotalBytes(chain.writable)));
    queue.TakeInterrupt();
    if (!queue.ListenForMore().ok()) return false;
  }
  return true;  // the rings lie over each other, and each answer makes a request
}

}  // namespace

void FuzzOne(absl::string_view input) {
  if (input.size() < kHeaderBytes) return;
  uint8_t header[kHeaderBytes];
  std::memcpy(header, input.data(), kHeaderBytes);
  input.remove_prefix(kHeaderBytes);
  uint8_t* const ram = Ram().At(0, kRamBytes)->data();
  std::memset(ram, 0, kRamBytes);
  std::memcpy(ram, input.data(), std::min(input.size(), kRamBytes));
  const VirtqueueState state = LayoutOf(header);
  auto queue = Virtqueue::Create(&Ram(), state, {(header[0] & 1) != 0, (header[0] & 2) != 0});
  if (!queue.ok()) {
    FUZZ_CHECK(!queue.status().message().empty());
    return;
  }
  queue->SuppressNotifications();
  if (!Serve(*queue)) return;
  // What one side has done another goes on with.
  FUZZ_CHECK(Virtqueue::Create(&Ram(), queue->state(), {}).ok());
}
