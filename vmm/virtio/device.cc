#include "vmm/virtio/device.h"

#include <linux/virtio_config.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/virtio/ring.h"

namespace cpr {
namespace {

constexpr uint64_t Bit(unsigned bit) { return uint64_t{1} << bit; }
constexpr uint64_t kCommonFeatures = Bit(VIRTIO_F_VERSION_1) | Bit(kRingFeatureEventIndex) | Bit(kRingFeatureIndirect);
constexpr uint8_t kDriverStatus = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |
                                  VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED;
constexpr uint8_t kKnownStatus = kDriverStatus | VIRTIO_CONFIG_S_NEEDS_RESET;

absl::Status BadState(absl::string_view what) { return absl::DataLossError(absl::StrCat("virtio state: ", what)); }

bool FeaturesFit(uint64_t wanted, uint64_t offered) {
  return (wanted & ~offered) == 0 && (wanted & Bit(VIRTIO_F_VERSION_1)) != 0;
}

}  // namespace

VirtioDevice::VirtioDevice(const GuestMemory* memory, Traits traits)
    : memory_(memory),
      traits_([&] {
        traits.features |= kCommonFeatures;
        return std::move(traits);
      }()),
      queues_(traits_.queue_sizes.size()) {
  for (size_t i = 0; i < traits_.queue_sizes.size(); ++i) {
    notify_fds_.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!notify_fds_.back().ok()) std::abort();  // no fd is left: nothing can be built
  }
  MutexLock lock(&mutex_);
  state_.queues.resize(traits_.queue_sizes.size());
  for (size_t i = 0; i < state_.queues.size(); ++i) state_.queues[i].size = traits_.queue_sizes[i];
}

void VirtioDevice::Connect(Interrupts interrupts) {
  MutexLock lock(&mutex_);
  interrupts_ = std::move(interrupts);
}

uint8_t VirtioDevice::status() const {
  MutexLock lock(&mutex_);
  return state_.status;
}

uint64_t VirtioDevice::driver_features() const {
  MutexLock lock(&mutex_);
  return state_.driver_features;
}

uint8_t VirtioDevice::config_generation() const {
  MutexLock lock(&mutex_);
  return state_.config_generation;
}

bool VirtioDevice::has_feature(unsigned bit) const { return (state_.driver_features & Bit(bit)) != 0; }

void VirtioDevice::WriteDriverFeatures(uint64_t features) {
  MutexLock lock(&mutex_);
  if ((state_.status & VIRTIO_CONFIG_S_FEATURES_OK) == 0) state_.driver_features = features;
}

void VirtioDevice::WriteStatus(uint8_t status) {
  MutexLock lock(&mutex_);
  if (status == 0) return Reset();
  // Only a reset takes bits back.
  uint8_t added = status & kDriverStatus & static_cast<uint8_t>(~state_.status);
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !FeaturesFit(state_.driver_features, traits_.features)) {
    added &= static_cast<uint8_t>(~VIRTIO_CONFIG_S_FEATURES_OK);
  }
  state_.status |= added;
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0) Activate();
}

void VirtioDevice::Activate() {
  if ((state_.status & VIRTIO_CONFIG_S_FEATURES_OK) == 0) return Break();
  for (unsigned i = 0; i < queue_count(); ++i) {
    if (!state_.queues[i].enabled) continue;
    auto queue = Virtqueue::Create(memory_, state_.queues[i], QueueFeatures(state_.driver_features));
    if (!queue.ok()) return Break();
    queues_[i].emplace(*std::move(queue));
    Notify(i);
  }
  OnActivate();
  Start();
}

Virtqueue::Features VirtioDevice::QueueFeatures(uint64_t driver_features) const {
  return {.event_index = (driver_features & Bit(kRingFeatureEventIndex)) != 0,
          .indirect = (driver_features & Bit(kRingFeatureIndirect)) != 0};
}

void VirtioDevice::Start() {
  const bool up = (state_.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
  const bool broken = (state_.status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
  if (started_ || holds_ > 0 || !up || broken) return;
  started_ = true;
  elsewhere_ = OnStart();
}

void VirtioDevice::Unhold() {
  --holds_;
  Start();
}

void VirtioDevice::Hold() {
  ++holds_;
  started_ = false;
  if (std::exchange(elsewhere_, false)) OnStop();
  while (requests_ > 0) idle_.Wait(&mutex_);
}

void VirtioDevice::EndRequest() {
  if (--requests_ == 0) idle_.SignalAll();
}

void VirtioDevice::Reset() {
  Hold();
  const uint8_t generation = state_.config_generation;
  state_ = {};
  state_.config_generation = generation;
  for (const uint16_t size : traits_.queue_sizes) state_.queues.push_back({.size = size});
  for (auto& queue : queues_) queue.reset();
  OnReset();
  Unhold();
}

void VirtioDevice::Break() {
  if ((state_.status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) return;
  state_.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
  SignalConfig();
}

VirtqueueState VirtioDevice::queue(unsigned index) const {
  MutexLock lock(&mutex_);
  return index < state_.queues.size() ? state_.queues[index] : VirtqueueState();
}

void VirtioDevice::ConfigureQueue(unsigned index, absl::FunctionRef<void(VirtqueueState&)> change) {
  MutexLock lock(&mutex_);
  if (index < state_.queues.size() && !state_.queues[index].enabled) change(state_.queues[index]);
}

void VirtioDevice::ReadConfig(uint64_t offset, absl::Span<uint8_t> data) const {
  MutexLock lock(&mutex_);
  const std::vector<uint8_t> config = Config();
  for (size_t i = 0; i < data.size(); ++i) data[i] = offset + i < config.size() ? config[offset + i] : 0;
}

void VirtioDevice::WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) {
  MutexLock lock(&mutex_);
  WriteOwnConfig(offset, data);
}

void VirtioDevice::Notify(unsigned queue) {
  if (queue >= queue_count()) return;
  const uint64_t one = 1;
  // Full means that it is signalled.
  [[maybe_unused]] const ssize_t ignored = ::write(notify_fds_[queue].get(), &one, sizeof(one));
}

Virtqueue* VirtioDevice::active_queue(unsigned index) {
  if ((state_.status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0 || !queues_[index].has_value()) return nullptr;
  return &*queues_[index];
}

void VirtioDevice::Serve(unsigned index) {
  MutexLock lock(&mutex_);
  if (elsewhere_) return;
  uint64_t count;
  [[maybe_unused]] const ssize_t ignored = ::read(notify_fds_[index].get(), &count, sizeof(count));
  if (!ServeSome(index).ok()) Break();
}

absl::Status VirtioDevice::ServeSome(unsigned index) {
  if (ready_queue(index) == nullptr) return absl::OkStatus();
  ready_queue(index)->SuppressNotifications();
  // Each time anew: ServeOne may give up the lock, and a reset take the queue away.
  for (unsigned served = 0; ready_queue(index) != nullptr; ++served) {
    if (served == traits_.queue_sizes[index]) {
      Notify(index);
      return absl::OkStatus();
    }
    CPR_ASSIGN_OR_RETURN(const Served result, ServeOne(index, *ready_queue(index)));
    if (result == Served::kOne || ready_queue(index) == nullptr) continue;
    if (result == Served::kListening) return absl::OkStatus();
    CPR_ASSIGN_OR_RETURN(const bool missed, ready_queue(index)->ListenForMore());
    if (!missed || result == Served::kIdle) return absl::OkStatus();
    ready_queue(index)->SuppressNotifications();
  }
  return absl::OkStatus();
}

void VirtioDevice::SignalQueue(unsigned index) {
  if (Virtqueue* queue = active_queue(index); queue != nullptr && queue->TakeInterrupt() && interrupts_.queue) {
    interrupts_.queue(index);
  }
}

absl::StatusOr<int> VirtioDevice::QueueEventfd(unsigned index) {
  if (!interrupts_.queue_eventfd) return -1;
  return interrupts_.queue_eventfd(index);
}

void VirtioDevice::InterruptMoved(unsigned queue) {
  MutexLock lock(&mutex_);
  if (elsewhere_) OnInterruptMoved(queue);
}

void VirtioDevice::SignalConfig() {
  ++state_.config_generation;
  if ((state_.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && interrupts_.config) interrupts_.config();
}

void VirtioDevice::Quiesce() {
  MutexLock lock(&mutex_);
  if (std::exchange(quiesced_, true)) return;
  Hold();
}

void VirtioDevice::Resume() {
  MutexLock lock(&mutex_);
  if (!std::exchange(quiesced_, false)) return;
  Unhold();
  for (unsigned i = 0; i < queue_count(); ++i) {
    // An interrupt of the VMM before this one may have been on its way when the guest was saved.
    SignalQueue(i);
    Notify(i);
  }
}

VirtioState VirtioDevice::SaveVirtio() const {
  MutexLock lock(&mutex_);
  VirtioState state = state_;
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].has_value()) state.queues[i] = queues_[i]->state();
  }
  return state;
}

absl::Status VirtioDevice::CheckVirtio(const VirtioState& state) const {
  if ((state.status & ~kKnownStatus) != 0) return BadState(absl::StrCat("status is ", state.status));
  const bool settled = (state.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  if (settled && !FeaturesFit(state.driver_features, traits_.features)) {
    return BadState(absl::StrCat("the driver uses features 0x", absl::Hex(state.driver_features), ", here are 0x",
                                 absl::Hex(traits_.features)));
  }
  if (state.queues.size() != traits_.queue_sizes.size()) {
    return BadState(absl::StrCat(state.queues.size(), " queues, here are ", traits_.queue_sizes.size()));
  }
  const bool broken = (state.status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
  const bool active = (state.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !broken;
  if (active && !settled) return BadState("the driver is up without features");
  for (size_t i = 0; i < state.queues.size(); ++i) {
    const VirtqueueState& queue = state.queues[i];
    if (active && queue.enabled) {
      const absl::Status status = Virtqueue::Check(*memory_, queue, QueueFeatures(state.driver_features));
      CPR_RETURN_IF_ERROR(Annotate(status, absl::StrCat("queue ", i)));
    }
    if (!queue.enabled && (queue.next_available != 0 || queue.next_used != 0)) {
      return BadState(absl::StrCat("queue ", i, " was used and is not enabled"));
    }
  }
  return absl::OkStatus();
}

void VirtioDevice::RestoreVirtio(const VirtioState& state) {
  Hold();
  state_ = state;
  for (auto& queue : queues_) queue.reset();
  OnReset();
  const bool broken = (state.status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
  if ((state.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !broken) {
    for (unsigned i = 0; i < queue_count(); ++i) {
      if (!state.queues[i].enabled) continue;
      auto queue = Virtqueue::Create(memory_, state.queues[i], QueueFeatures(state.driver_features));
      if (queue.ok()) queues_[i].emplace(*std::move(queue));
      if (!quiesced_) Notify(i);
    }
    OnActivate();
  }
  Unhold();
}

}  // namespace cpr
