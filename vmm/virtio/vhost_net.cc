#include "vmm/virtio/vhost_net.h"

#include <fcntl.h>
#include <linux/virtio_config.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/virtio/net_abi.h"
#include "vmm/virtio/ring.h"
#include "vmm/virtio/vhost_abi.h"

namespace cpr {
namespace {

constexpr uint64_t Bit(unsigned bit) { return uint64_t{1} << bit; }
// Those of our driver's that the kernel's half has to know; the others are the tap's affair, or the device's.
constexpr uint64_t kFeatures =
    Bit(kNetMergeable) | Bit(kRingFeatureIndirect) | Bit(kRingFeatureEventIndex) | Bit(VIRTIO_F_VERSION_1);
constexpr char kPath[] = "/dev/vhost-net";
constexpr int kNone = -1;

std::string QueueName(unsigned index) { return absl::StrCat("queue ", index); }

uint64_t AddressOf(absl::Span<const uint8_t> ring) { return reinterpret_cast<uintptr_t>(ring.data()); }

}  // namespace

absl::StatusOr<UniqueFd> VhostNet::Open() {
  UniqueFd fd(::open(kPath, O_RDWR | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, absl::StrCat("tap: open vhost char device failed (", kPath, ")"));
  return fd;
}

absl::StatusOr<VhostNet> VhostNet::Create(UniqueFd fd, IoctlFunction ioctl) {
  CPR_ASSIGN_OR_RETURN(VhostNet vhost, Adopt(std::move(fd), std::move(ioctl)));
  // Whether it can be started shows here, not when the guest comes to it.
  CPR_RETURN_IF_ERROR(vhost.Call(kVhostSetOwner, nullptr));
  CPR_RETURN_IF_ERROR(vhost.ResetOwner());
  return vhost;
}

absl::StatusOr<VhostNet> VhostNet::Adopt(UniqueFd fd, IoctlFunction ioctl) {
  VhostNet vhost(std::move(fd), KernelsUnless(std::move(ioctl)));
  uint64_t features = 0;
  CPR_RETURN_IF_ERROR(vhost.Call(kVhostGetFeatures, &features));
  const uint64_t missing = kFeatures & ~features;
  if (missing == 0) return vhost;
  return absl::UnimplementedError(absl::StrCat("VHOST_GET_FEATURES: the kernel lacks 0x", absl::Hex(missing)));
}

absl::Status VhostNet::Call(const VhostRequest& request, void* argument) const {
  const int result = ioctl_(fd_.get(), request.number, argument);
  return result >= 0 ? absl::OkStatus() : ErrnoStatus(errno, request.name);
}

absl::Status VhostNet::ResetOwner() const { return Call(kVhostResetOwner, nullptr); }

absl::Status VhostNet::Start(uint64_t features, const GuestMemory& memory, absl::Span<const Queue> queues, int tap_fd) {
  CPR_RETURN_IF_ERROR(Call(kVhostSetOwner, nullptr));
  const absl::Status status = SetUp(features & kFeatures, memory, queues, tap_fd);
  if (!status.ok()) {
    ResetOwner().IgnoreError();  // it stops what has been started, too
    return status;
  }
  for (const Queue& queue : queues) started_.push_back(queue.index);
  return absl::OkStatus();
}

// Features and memory first: the rings are judged by them once there is a backend.
absl::Status VhostNet::SetUp(uint64_t features, const GuestMemory& memory, absl::Span<const Queue> queues,
                             int tap_fd) const {
  CPR_RETURN_IF_ERROR(Call(kVhostSetFeatures, &features));
  CPR_RETURN_IF_ERROR(SetMemory(memory));
  for (const Queue& queue : queues) CPR_RETURN_IF_ERROR(Annotate(SetUpQueue(queue), QueueName(queue.index)));
  for (const Queue& queue : queues) CPR_RETURN_IF_ERROR(SetBackend(queue.index, tap_fd));
  return absl::OkStatus();
}

absl::Status VhostNet::SetMemory(const GuestMemory& memory) const {
  const std::vector<uint8_t*> mapped = memory.mapped();
  const VhostMemory header = {.regions = static_cast<uint32_t>(mapped.size()), .padding = 0};
  std::vector<uint8_t> table(sizeof(header) + mapped.size() * sizeof(VhostMemoryRegion));
  std::memcpy(table.data(), &header, sizeof(header));
  for (size_t i = 0; i < mapped.size(); ++i) {
    const RamBlock& block = memory.blocks()[i];
    const VhostMemoryRegion region = {.gpa = block.gpa(),
                                      .size_bytes = block.size_bytes(),
                                      .hva = reinterpret_cast<uintptr_t>(mapped[i]),
                                      .padding = 0};
    std::memcpy(table.data() + sizeof(header) + i * sizeof(region), &region, sizeof(region));
  }
  return Call(kVhostSetMemory, table.data());
}

absl::Status VhostNet::SetUpQueue(const Queue& queue) const {
  const VirtqueueState& state = queue.rings->state();
  VhostRingState size = {.index = queue.index, .value = state.size};
  CPR_RETURN_IF_ERROR(Call(kVhostSetRingSize, &size));
  VhostRingState base = {.index = queue.index, .value = state.next_available};
  CPR_RETURN_IF_ERROR(Call(kVhostSetRingBase, &base));
  const Virtqueue::Rings& rings = queue.rings->rings();
  VhostRingAddresses addresses = {.index = queue.index,
                                  .flags = 0,
                                  .descriptors_hva = AddressOf(rings.descriptors),
                                  .used_hva = AddressOf(rings.used),
                                  .available_hva = AddressOf(rings.available),
                                  .log_gpa = 0};
  CPR_RETURN_IF_ERROR(Call(kVhostSetRingAddresses, &addresses));
  VhostRingFile kick = {.index = queue.index, .fd = queue.kick_fd};
  CPR_RETURN_IF_ERROR(Call(kVhostSetRingKick, &kick));
  VhostRingFile call = {.index = queue.index, .fd = queue.call_fd};
  return Call(kVhostSetRingCall, &call);
}

absl::Status VhostNet::SetCall(unsigned index, int call_fd) const {
  VhostRingFile call = {.index = index, .fd = call_fd};
  return Annotate(Call(kVhostSetRingCall, &call), QueueName(index));
}

absl::Status VhostNet::SetBackend(unsigned index, int fd) const {
  VhostRingFile backend = {.index = index, .fd = fd};
  return Annotate(Call(kVhostNetSetBackend, &backend), QueueName(index));
}

VhostNet::Stopped VhostNet::Stop() {
  Stopped stopped;
  for (const unsigned index : started_) stopped.status.Update(SetBackend(index, kNone));
  for (const unsigned index : started_) {
    VhostRingState base = {.index = index, .value = 0};
    const absl::Status status = Annotate(Call(kVhostGetRingBase, &base), QueueName(index));
    stopped.status.Update(status);
    stopped.next_available.push_back(status.ok() ? std::make_optional(static_cast<uint16_t>(base.value))
                                                 : std::nullopt);
  }
  stopped.status.Update(ResetOwner());
  started_.clear();
  return stopped;
}

}  // namespace cpr
