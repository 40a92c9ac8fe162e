#include "vmm/virtio/blk.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr uint32_t kMaxSegments = VirtioBlk::kQueueSize - 2;  // without header and status

uint64_t FeaturesOf(const DiskImage& image) {
  const auto bit = [](unsigned n) { return uint64_t{1} << n; };
  uint64_t features = bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_FLUSH);
  if (image.config().read_only) features |= bit(VIRTIO_BLK_F_RO);
  return features;
}

}  // namespace

struct VirtioBlk::Request {
  virtio_blk_outhdr header;                             // copied: the guest may change its own
  std::vector<absl::Span<uint8_t>> readable, writable;  // without header and status
};

absl::StatusOr<std::unique_ptr<VirtioBlk>> VirtioBlk::Create(const GuestMemory* memory, DiskImage image,
                                                             std::string serial) {
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.ok()) return ErrnoStatus(errno, "eventfd");
  std::unique_ptr<VirtioBlk> device(new VirtioBlk(memory, std::move(image), std::move(serial), std::move(stop)));
  device->worker_ = std::thread([blk = device.get()] { blk->Work(); });
  return device;
}

VirtioBlk::VirtioBlk(const GuestMemory* memory, DiskImage image, std::string serial, UniqueFd stop)
    : VirtioDevice(memory, {.device_id = VIRTIO_ID_BLOCK, .features = FeaturesOf(image), .queue_sizes = {kQueueSize}}),
      image_(std::move(image)),
      serial_(std::move(serial)),
      stop_(std::move(stop)) {}

VirtioBlk::~VirtioBlk() {
  Quiesce();
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = ::write(stop_.get(), &one, sizeof(one));
  worker_.join();
}

void VirtioBlk::Work() {
  pollfd fds[] = {{notify_fd(0), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (true) {
    if (::poll(fds, std::size(fds), -1) < 0) continue;  // EINTR
    if (fds[1].revents != 0) return;
    Serve(0);
  }
}

absl::StatusOr<VirtioDevice::Served> VirtioBlk::ServeOne(unsigned index, Virtqueue& queue) {
  CPR_ASSIGN_OR_RETURN(std::optional<DescriptorChain> chain, queue.Pop());
  if (!chain.has_value()) return Served::kEmpty;
  Request request;
  const auto header = absl::MakeSpan(reinterpret_cast<uint8_t*>(&request.header), sizeof(request.header));
  if (CopyFromBuffers(chain->readable, header) != header.size()) return absl::DataLossError("virtio-blk: no header");
  if (chain->writable.empty()) return absl::DataLossError("virtio-blk: no room for the status");
  request.readable = Slice(chain->readable, header.size());
  const size_t writable_bytes = TotalBytes(chain->writable) - 1;
  request.writable = Slice(chain->writable, 0, writable_bytes);
  BeginRequest();
  mutex_.Unlock();
  const auto [status, written_bytes] = Execute(request);
  CopyToBuffers({&status, 1}, Slice(chain->writable, writable_bytes));
  mutex_.Lock();
  // A reset waits for EndRequest: the queue is the one that it was.
  queue.Push(chain->head, static_cast<uint32_t>(written_bytes + 1));
  SignalQueue(index);
  EndRequest();
  return Served::kOne;
}

std::pair<uint8_t, size_t> VirtioBlk::Execute(const Request& request) const {
  const auto result = [](const absl::Status& status, size_t written_bytes = 0) {
    return std::make_pair(static_cast<uint8_t>(status.ok() ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR),
                          status.ok() ? written_bytes : 0);
  };
  const absl::Status refused = absl::InvalidArgumentError("virtio-blk request");
  // What is beyond the image is refused there, what would wrap round here.
  const uint64_t sector = std::min<uint64_t>(request.header.sector, INT64_MAX / DiskImage::kSectorBytes);
  const uint64_t offset_bytes = sector * DiskImage::kSectorBytes;
  switch (request.header.type) {
    case VIRTIO_BLK_T_IN: {
      const size_t size_bytes = TotalBytes(request.writable);
      if (size_bytes % DiskImage::kSectorBytes != 0) return result(refused);
      return result(image_.Read(offset_bytes, request.writable), size_bytes);
    }
    case VIRTIO_BLK_T_OUT:
      if (TotalBytes(request.readable) % DiskImage::kSectorBytes != 0 || image_.config().read_only) {
        return result(refused);
      }
      return result(image_.Write(offset_bytes, request.readable));
    case VIRTIO_BLK_T_FLUSH:
      return result(image_.Flush());
    case VIRTIO_BLK_T_GET_ID: {
      uint8_t id[kSerialBytes] = {};
      std::memcpy(id, serial_.data(), std::min(serial_.size(), sizeof(id)));
      return result(absl::OkStatus(), CopyToBuffers(id, request.writable));
    }
    default:
      return {VIRTIO_BLK_S_UNSUPP, 0};
  }
}

std::vector<uint8_t> VirtioBlk::Config() const {
  virtio_blk_config config = {};
  config.capacity = capacity_sectors();
  config.seg_max = kMaxSegments;
  config.blk_size = DiskImage::kSectorBytes;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&config);
  return {bytes, bytes + sizeof(config)};
}

absl::Status VirtioBlk::Restore(const VirtioBlkState& state) {
  if (state.capacity_sectors != capacity_sectors()) {
    return absl::DataLossError(absl::StrCat(image_.config().path, " has ", capacity_sectors(),
                                            " sectors, the guest knows ", state.capacity_sectors));
  }
  MutexLock lock(&mutex_);
  CPR_RETURN_IF_ERROR(CheckVirtio(state.device));
  RestoreVirtio(state.device);
  return absl::OkStatus();
}

}  // namespace cpr
