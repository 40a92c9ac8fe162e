#include "vmm/virtio/net.h"

#include <linux/if_tun.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/virtio/net_abi.h"

namespace cpr {
namespace {

constexpr uint64_t Bit(unsigned bit) { return uint64_t{1} << bit; }

constexpr uint64_t kFeatures = Bit(kNetChecksum) | Bit(kNetGuestChecksum) | Bit(kNetMac) | Bit(kNetGuestTso4) |
                               Bit(kNetGuestTso6) | Bit(kNetGuestEcn) | Bit(kNetHostTso4) | Bit(kNetHostTso6) |
                               Bit(kNetHostEcn) | Bit(kNetMergeable) | Bit(kNetStatus);

// With the header: an Ethernet frame with a VLAN's tag, and one that is left to be segmented.
constexpr size_t kPlainFrame = Tap::kHeaderBytes + 1518, kLargeFrame = Tap::kHeaderBytes + 65536 + 18;

// A driver whose buffers are that small has to do with short frames.
constexpr size_t kMaxParts = 256;

static_assert(sizeof(NetHeader) == Tap::kHeaderBytes);

}  // namespace

VirtioNet::VirtioNet(const GuestMemory* memory, Tap tap, const MacAddress& mac)
    : VirtioDevice(memory,
                   {.device_id = VIRTIO_ID_NET, .features = kFeatures, .queue_sizes = {kQueueSize, kQueueSize}}),
      tap_(std::move(tap)),
      mac_(mac) {}

VirtioNet::VirtioNet(const GuestMemory* memory, Tap tap, const MacAddress& mac, VhostNet vhost, FallBack fall_back)
    : VirtioDevice(memory,
                   {.device_id = VIRTIO_ID_NET, .features = kFeatures, .queue_sizes = {kQueueSize, kQueueSize}}),
      tap_(std::move(tap)),
      mac_(mac),
      vhost_(std::move(vhost)),
      vhost_fd_(vhost_->fd()),
      fall_back_(std::move(fall_back)) {}

std::vector<uint8_t> VirtioNet::Config() const {
  NetConfig config = {};
  std::copy(mac_.begin(), mac_.end(), config.mac);
  config.status = kNetLinkUp;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&config);
  return {bytes, bytes + sizeof(config)};
}

// Errors mean that the kernel has to finish what it leaves to the guest, which is slower and nothing else.
void VirtioNet::OnReset() { tap_.SetOffloads(0).IgnoreError(); }

void VirtioNet::OnActivate() {
  unsigned offloads = 0;
  // The kernel takes each only along with the one before it.
  if (has_feature(kNetGuestChecksum)) {
    offloads |= TUN_F_CSUM;
    if (has_feature(kNetGuestTso4)) offloads |= TUN_F_TSO4;
    if (has_feature(kNetGuestTso6)) offloads |= TUN_F_TSO6;
    if (offloads != TUN_F_CSUM && has_feature(kNetGuestEcn)) offloads |= TUN_F_TSO_ECN;
  }
  tap_.SetOffloads(offloads).IgnoreError();
}

absl::StatusOr<VirtioDevice::Served> VirtioNet::ServeOne(unsigned index, Virtqueue& queue) {
  return index == kReceive ? Receive(queue) : Transmit(queue);
}

absl::StatusOr<VirtioDevice::Served> VirtioNet::Transmit(Virtqueue& queue) {
  CPR_ASSIGN_OR_RETURN(const std::optional<DescriptorChain> chain, queue.Pop());
  if (!chain.has_value()) return Served::kEmpty;
  if (TotalBytes(chain->readable) < Tap::kHeaderBytes) return absl::DataLossError("virtio-net: no header");
  tap_.Write(chain->readable).IgnoreError();  // networks lose frames
  queue.Push(chain->head, 0);
  SignalQueue(kTransmit);
  return Served::kOne;
}

size_t VirtioNet::LongestFrame() const {
  const bool large = has_feature(kNetGuestTso4) || has_feature(kNetGuestTso6);
  return large ? kLargeFrame : kPlainFrame;
}

absl::StatusOr<VirtioNet::Room> VirtioNet::TakeRoom(Virtqueue& queue) const {
  const bool mergeable = has_feature(kNetMergeable);
  Room room;
  while (room.total_bytes < LongestFrame() && room.buffers.size() < kMaxParts) {
    CPR_ASSIGN_OR_RETURN(const std::optional<DescriptorChain> chain, queue.Pop());
    if (!chain.has_value()) break;
    const size_t size_bytes = TotalBytes(chain->writable);
    room.heads.push_back(chain->head);
    room.sizes_bytes.push_back(static_cast<uint32_t>(size_bytes));
    room.buffers.insert(room.buffers.end(), chain->writable.begin(), chain->writable.end());
    room.total_bytes += size_bytes;
    if (!mergeable) break;
  }
  return room;
}

// How long a frame is shows when it is read, and then it has to go somewhere: room for the longest comes first.
absl::StatusOr<VirtioDevice::Served> VirtioNet::Receive(Virtqueue& queue) {
  CPR_ASSIGN_OR_RETURN(const Room room, TakeRoom(queue));
  const auto count = static_cast<uint16_t>(room.heads.size());
  if (count == 0) return Served::kEmpty;
  const bool driver_has_more = has_feature(kNetMergeable) && count < queue.state().size;
  if (room.total_bytes < LongestFrame() && room.buffers.size() < kMaxParts && driver_has_more) {
    queue.Unpop(count);
    CPR_ASSIGN_OR_RETURN(const bool missed, queue.ListenForMore(count));
    return missed ? Served::kOne : Served::kListening;
  }
  const absl::StatusOr<size_t> frame_bytes = tap_.Read(room.buffers);
  // An interface that is gone has no frames any more.
  if (!frame_bytes.ok() || *frame_bytes == 0) {
    queue.Unpop(count);
    return Served::kIdle;
  }
  if (*frame_bytes > room.total_bytes) {
    queue.Unpop(count);  // the driver gave no room for it: lost
    return Served::kOne;
  }
  Deliver(queue, room, *frame_bytes);
  return Served::kOne;
}

void VirtioNet::Deliver(Virtqueue& queue, const Room& room, size_t frame_bytes) {
  std::vector<Virtqueue::Used> used;
  for (size_t left = frame_bytes, i = 0; left > 0; ++i) {
    const size_t here = std::min<size_t>(left, room.sizes_bytes[i]);
    used.push_back({room.heads[i], static_cast<uint32_t>(here)});
    left -= here;
  }
  queue.Unpop(static_cast<uint16_t>(room.heads.size() - used.size()));
  const auto count = static_cast<uint16_t>(used.size());
  const auto* bytes = reinterpret_cast<const uint8_t*>(&count);
  constexpr size_t kCountAt = offsetof(NetHeader, buffers);
  CopyToBuffers({bytes, sizeof(count)}, Slice(room.buffers, kCountAt, sizeof(count)));
  queue.Push(used);
  SignalQueue(kReceive);
}

bool VirtioNet::OnStart() {
  if (!vhost_.has_value() || fell_back_) return false;
  const absl::Status status = StartVhost();
  if (!status.ok()) GiveUpVhost(Annotate(status, "unable to start vhost net"));
  return status.ok();
}

absl::Status VirtioNet::StartVhost() {
  std::vector<VhostNet::Queue> queues;
  for (unsigned i = 0; i < queue_count(); ++i) {
    const Virtqueue* const rings = active_queue(i);
    if (rings == nullptr) continue;
    CPR_ASSIGN_OR_RETURN(const int call_fd, QueueEventfd(i));
    queues.push_back({.index = i, .rings = rings, .kick_fd = notify_fd(i), .call_fd = call_fd});
  }
  return vhost_->Start(settled_features(), memory(), queues, tap_.fd());
}

void VirtioNet::OnStop() {
  const VhostNet::Stopped stopped = vhost_->Stop();
  size_t next = 0;
  for (unsigned i = 0; i < queue_count(); ++i) {
    if (Virtqueue* const queue = active_queue(i); queue != nullptr) queue->TakeOver(stopped.next_available[next++]);
  }
  if (!stopped.status.ok()) GiveUpVhost(Annotate(stopped.status, "unable to stop vhost net"));
}

void VirtioNet::OnInterruptMoved(unsigned index) {
  if (active_queue(index) == nullptr) return;
  const absl::StatusOr<int> call_fd = QueueEventfd(index);
  // A guest whose interrupts get lost has to reset the device, as any other that does not answer.
  if (call_fd.ok()) vhost_->SetCall(index, *call_fd).IgnoreError();
}

void VirtioNet::GiveUpVhost(const absl::Status& why) {
  fell_back_ = true;
  if (fall_back_) fall_back_(why);
}

absl::Status VirtioNet::Restore(const VirtioNetState& state) {
  if (state.mac != mac_) {
    return absl::DataLossError(
        absl::StrCat("the MAC address here is ", MacText(mac_), ", the guest knows ", MacText(state.mac)));
  }
  MutexLock lock(&mutex_);
  CPR_RETURN_IF_ERROR(CheckVirtio(state.device));
  RestoreVirtio(state.device);
  return absl::OkStatus();
}

}  // namespace cpr
