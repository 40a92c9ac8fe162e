#include "vmm/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <cerrno>

#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {

VirtioRng::VirtioRng(const GuestMemory* memory)
    : VirtioDevice(memory, {.device_id = VIRTIO_ID_RNG, .features = 0, .queue_sizes = {kQueueSize}}) {}

absl::StatusOr<VirtioDevice::Served> VirtioRng::ServeOne(unsigned index, Virtqueue& queue) {
  CPR_ASSIGN_OR_RETURN(const std::optional<DescriptorChain> chain, queue.Pop());
  if (!chain.has_value()) return Served::kEmpty;
  uint32_t written_bytes = 0;
  for (const absl::Span<uint8_t> buffer : Slice(chain->writable, 0, kMaxRequestBytes)) {
    const ssize_t n = ::getrandom(buffer.data(), buffer.size(), 0);
    if (n < 0 && errno != EINTR) return ErrnoStatus(errno, "getrandom");
    if (n > 0) written_bytes += static_cast<uint32_t>(n);
    if (n != static_cast<ssize_t>(buffer.size())) break;  // a signal: what there is will do
  }
  queue.Push(chain->head, written_bytes);
  SignalQueue(index);
  return Served::kOne;
}

absl::Status VirtioRng::Restore(const VirtioState& state) {
  MutexLock lock(&mutex_);
  CPR_RETURN_IF_ERROR(CheckVirtio(state));
  RestoreVirtio(state);
  return absl::OkStatus();
}

}  // namespace cpr
