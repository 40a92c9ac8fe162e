#include "vmm/virtio/pci.h"

#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

constexpr uint16_t kVendor = 0x1af4, kFirstModernDevice = 0x1040;
constexpr uint16_t kNoVector = VIRTIO_MSI_NO_VECTOR;
constexpr uint8_t kVendorCapability = 0x09;
constexpr unsigned kBar = 0;
constexpr uint8_t kQueueInterrupt = 1, kConfigInterrupt = VIRTIO_PCI_ISR_CONFIG;

PciFunction::Identity IdentityOf(uint16_t device_id, uint32_t class_code) {
  const auto pci_id = static_cast<uint16_t>(kFirstModernDevice + device_id);
  return {.vendor_id = kVendor,
          .device_id = pci_id,
          .revision = 1,
          .class_code = class_code,
          .subsystem_vendor_id = kVendor,
          .subsystem_id = pci_id};
}

void SetLow(uint64_t* target, uint32_t value) { *target = (*target & ~uint64_t{UINT32_MAX}) | value; }
void SetHigh(uint64_t* target, uint32_t value) { *target = (*target & UINT32_MAX) | uint64_t{value} << 32; }

// The 64-bit register of a queue that `offset` is half of, or null.
uint64_t* AddressRegister(uint64_t offset, VirtqueueState* queue) {
  switch (offset) {
    case VIRTIO_PCI_COMMON_Q_DESCLO:
    case VIRTIO_PCI_COMMON_Q_DESCHI:
      return &queue->descriptors_gpa;
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
      return &queue->available_gpa;
    case VIRTIO_PCI_COMMON_Q_USEDLO:
    case VIRTIO_PCI_COMMON_Q_USEDHI:
      return &queue->used_gpa;
    default:
      return nullptr;
  }
}
bool IsHighHalf(uint64_t offset) { return (offset - VIRTIO_PCI_COMMON_Q_DESCLO) % 8 != 0; }

uint64_t FeatureWindow(uint64_t features, uint32_t select) {
  return select < 2 ? features >> (32 * select) & UINT32_MAX : 0;
}

// How wide the register at `offset` is.
unsigned WidthOf(uint64_t offset) {
  if (offset == VIRTIO_PCI_COMMON_STATUS || offset == VIRTIO_PCI_COMMON_CFGGENERATION) return 1;
  return offset >= VIRTIO_PCI_COMMON_MSIX && offset < VIRTIO_PCI_COMMON_Q_DESCLO ? 2 : 4;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VirtioPci>> VirtioPci::Create(VirtioDevice* device, uint32_t class_code,
                                                             MsiRouter* router, Doorbell doorbell) {
  std::unique_ptr<VirtioPci> function(new VirtioPci(device, class_code, std::move(doorbell)));
  function->AddBar(kBar, PciBarKind::kMemory64, kBarBytes);
  CPR_RETURN_IF_ERROR(function->AddMsix(
      {.bar = kBar, .vectors = function->vectors(), .table_offset = kMsixAt, .pba_offset = kPendingAt}, router));
  function->AddCapabilities();
  device->Connect({.queue = [pci = function.get()](unsigned queue) { pci->SignalQueue(queue); },
                   .config = [pci = function.get()] { pci->SignalConfig(); },
                   .queue_eventfd = [pci = function.get()](unsigned queue) { return pci->QueueEventfd(queue); }});
  return function;
}

VirtioPci::VirtioPci(VirtioDevice* device, uint32_t class_code, Doorbell doorbell)
    : PciFunction(IdentityOf(device->device_id(), class_code)), device_(device), doorbell_(std::move(doorbell)) {
  state_.queue_vectors.assign(device->queue_count(), kNoVector);
}

VirtioPci::~VirtioPci() {
  device_->Connect({});
  MoveDoorbells(std::nullopt);
}

void VirtioPci::AddCapabilities() {
  const auto add = [this](uint8_t type, uint64_t offset, uint64_t size_bytes, unsigned extra_bytes) {
    struct {
      virtio_pci_cap cap;
      uint32_t extra;
    } whole = {};
    whole.cap.cap_len = static_cast<uint8_t>(sizeof(whole.cap) + extra_bytes);
    whole.cap.cfg_type = type;
    whole.cap.bar = kBar;
    whole.cap.offset = static_cast<uint32_t>(offset);
    whole.cap.length = static_cast<uint32_t>(size_bytes);
    whole.extra = kDoorbellBytes;
    const auto* bytes = reinterpret_cast<const uint8_t*>(&whole);
    // Without id and link, which AddCapability makes.
    return AddCapability(kVendorCapability, absl::MakeConstSpan(bytes + 2, whole.cap.cap_len - 2u));
  };
  add(VIRTIO_PCI_CAP_COMMON_CFG, kCommonAt, sizeof(virtio_pci_common_cfg), 0);
  add(VIRTIO_PCI_CAP_ISR_CFG, kInterruptStatusAt, 1, 0);
  add(VIRTIO_PCI_CAP_DEVICE_CFG, kDeviceAt, 0x1000, 0);
  add(VIRTIO_PCI_CAP_NOTIFY_CFG, kDoorbellsAt, kDoorbellBytes * device_->queue_count(), sizeof(uint32_t));
}

uint64_t VirtioPci::ReadBar(unsigned, uint64_t offset, unsigned size_bytes) {
  if (offset < kInterruptStatusAt) {
    // A wider access than the register gets the next ones, too.
    uint64_t value = 0;
    for (unsigned done = 0; done < size_bytes;) {
      const unsigned width = WidthOf(offset + done);
      value |= ReadCommon(offset + done) << (8 * done);
      done += width;
    }
    return value;
  }
  if (offset < kDeviceAt) {
    MutexLock lock(&mutex_);
    return offset == kInterruptStatusAt ? std::exchange(state_.interrupt_status, 0) : 0;
  }
  if (offset >= kDoorbellsAt) return 0;
  uint64_t value = 0;
  device_->ReadConfig(offset - kDeviceAt, absl::MakeSpan(reinterpret_cast<uint8_t*>(&value), size_bytes));
  return value;
}

void VirtioPci::WriteBar(unsigned, uint64_t offset, unsigned size_bytes, uint64_t value) {
  if (offset < kInterruptStatusAt) {
    for (unsigned done = 0; done < size_bytes; done += WidthOf(offset + done)) {
      WriteCommon(offset + done, static_cast<uint32_t>(value >> (8 * done)));
    }
  } else if (offset >= kDoorbellsAt) {
    device_->Notify(static_cast<unsigned>((offset - kDoorbellsAt) / kDoorbellBytes));
  } else if (offset >= kDeviceAt) {
    device_->WriteConfig(offset - kDeviceAt, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&value), size_bytes));
  }
}

uint64_t VirtioPci::ReadCommon(uint64_t offset) {
  switch (offset) {
    case VIRTIO_PCI_COMMON_NUMQ:
      return device_->queue_count();
    case VIRTIO_PCI_COMMON_STATUS:
      return device_->status();
    case VIRTIO_PCI_COMMON_CFGGENERATION:
      return device_->config_generation();
    case VIRTIO_PCI_COMMON_GF:
      return FeatureWindow(device_->driver_features(), Get(&VirtioPciState::driver_feature_select));
    case VIRTIO_PCI_COMMON_DF:
      return FeatureWindow(device_->features(), Get(&VirtioPciState::device_feature_select));
    case VIRTIO_PCI_COMMON_DFSELECT:
      return Get(&VirtioPciState::device_feature_select);
    case VIRTIO_PCI_COMMON_GFSELECT:
      return Get(&VirtioPciState::driver_feature_select);
    case VIRTIO_PCI_COMMON_Q_SELECT:
      return Get(&VirtioPciState::queue_select);
    case VIRTIO_PCI_COMMON_MSIX:
      return Get(&VirtioPciState::config_vector);
    default:
      return ReadSelectedQueue(offset, Get(&VirtioPciState::queue_select));
  }
}

uint64_t VirtioPci::ReadSelectedQueue(uint64_t offset, unsigned index) {
  if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
    MutexLock lock(&mutex_);
    return index < state_.queue_vectors.size() ? state_.queue_vectors[index] : kNoVector;
  }
  VirtqueueState queue = device_->queue(index);
  if (offset == VIRTIO_PCI_COMMON_Q_SIZE) return queue.size;
  if (offset == VIRTIO_PCI_COMMON_Q_ENABLE) return queue.enabled ? 1 : 0;
  if (offset == VIRTIO_PCI_COMMON_Q_NOFF) return index < device_->queue_count() ? index : 0;
  const uint64_t* address = AddressRegister(offset, &queue);
  if (address == nullptr) return 0;
  return IsHighHalf(offset) ? *address >> 32 : *address & UINT32_MAX;
}

void VirtioPci::WriteCommon(uint64_t offset, uint32_t value) {
  switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
      return Set(&VirtioPciState::device_feature_select, value);
    case VIRTIO_PCI_COMMON_GFSELECT:
      return Set(&VirtioPciState::driver_feature_select, value);
    case VIRTIO_PCI_COMMON_Q_SELECT:
      return Set(&VirtioPciState::queue_select, static_cast<uint16_t>(value));
    case VIRTIO_PCI_COMMON_MSIX:
      return Set(&VirtioPciState::config_vector, SettleVector(value));
    case VIRTIO_PCI_COMMON_GF:
      return WriteDriverFeatures(Get(&VirtioPciState::driver_feature_select), value);
    case VIRTIO_PCI_COMMON_STATUS:
      if (static_cast<uint8_t>(value) == 0) ResetTransport();
      return device_->WriteStatus(static_cast<uint8_t>(value));
    default:
      return WriteSelectedQueue(offset, Get(&VirtioPciState::queue_select), value);
  }
}

void VirtioPci::WriteDriverFeatures(uint32_t window, uint32_t value) {
  uint64_t features = device_->driver_features();
  if (window == 0) SetLow(&features, value);
  if (window == 1) SetHigh(&features, value);
  device_->WriteDriverFeatures(features);
}

void VirtioPci::WriteSelectedQueue(uint64_t offset, unsigned index, uint32_t value) {
  if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
    if (index >= device_->queue_count()) return;
    {
      MutexLock lock(&mutex_);
      state_.queue_vectors[index] = SettleVector(value);
    }
    return device_->InterruptMoved(index);
  }
  device_->ConfigureQueue(index, [&](VirtqueueState& queue) {
    if (offset == VIRTIO_PCI_COMMON_Q_SIZE) queue.size = static_cast<uint16_t>(value);
    if (offset == VIRTIO_PCI_COMMON_Q_ENABLE) queue.enabled = value == 1;
    if (uint64_t* address = AddressRegister(offset, &queue); address != nullptr) {
      IsHighHalf(offset) ? SetHigh(address, value) : SetLow(address, value);
    }
  });
}

uint16_t VirtioPci::SettleVector(uint32_t value) const {
  // A guest that reads it back learns that it cannot have that one.
  const auto vector = static_cast<uint16_t>(value);
  return vector < vectors() ? vector : kNoVector;
}

void VirtioPci::SignalQueue(unsigned queue) {
  MutexLock lock(&mutex_);
  state_.interrupt_status |= kQueueInterrupt;
  if (state_.queue_vectors[queue] != kNoVector) msix()->Signal(state_.queue_vectors[queue]);
}

absl::StatusOr<int> VirtioPci::QueueEventfd(unsigned queue) {
  MutexLock lock(&mutex_);
  const uint16_t vector = state_.queue_vectors[queue];
  if (vector == kNoVector) return -1;
  return msix()->Share(vector);
}

void VirtioPci::SignalConfig() {
  MutexLock lock(&mutex_);
  state_.interrupt_status |= kConfigInterrupt;
  if (state_.config_vector != kNoVector) msix()->Signal(state_.config_vector);
}

void VirtioPci::BarMoved(unsigned bar, std::optional<uint64_t> address) {
  if (bar == kBar) MoveDoorbells(address);
}

void VirtioPci::MoveDoorbells(std::optional<uint64_t> address) {
  if (!doorbell_) return;
  MutexLock lock(&mutex_);
  if (address == doorbells_gpa_) return;
  const std::optional<uint64_t> before = std::exchange(doorbells_gpa_, address);
  for (unsigned i = 0; i < device_->queue_count(); ++i) {
    const uint64_t offset = kDoorbellsAt + kDoorbellBytes * i;
    // Where KVM does not listen, WriteBar does.
    if (before.has_value()) doorbell_(*before + offset, device_->notify_fd(i), /*add=*/false).IgnoreError();
    if (address.has_value()) doorbell_(*address + offset, device_->notify_fd(i), /*add=*/true).IgnoreError();
  }
}

// Whether it answers there or not.
uint64_t VirtioPci::PlacedBar() const {
  const uint64_t low = Config(kPciBar0, 4) & ~uint64_t{0xf};
  return low | uint64_t{Config(kPciBar0 + 4, 4)} << 32;
}

void VirtioPci::ResetTransport() {
  MutexLock lock(&mutex_);
  state_ = {};
  state_.queue_vectors.assign(device_->queue_count(), kNoVector);
}

void VirtioPci::Reset() {
  PciFunction::Reset();
  ResetTransport();
  device_->WriteStatus(0);
}

VirtioPciState VirtioPci::SaveTransport() const {
  MutexLock lock(&mutex_);
  return state_;
}

absl::Status VirtioPci::RestoreTransport(const VirtioPciState& state) {
  const auto bad = [](absl::string_view what) { return absl::DataLossError(absl::StrCat("virtio-pci state: ", what)); };
  if (state.queue_vectors.size() != device_->queue_count()) {
    return bad(absl::StrCat(state.queue_vectors.size(), " queues, here are ", device_->queue_count()));
  }
  const auto settled = [this](uint16_t vector) { return SettleVector(vector) == vector; };
  if (!settled(state.config_vector)) return bad(absl::StrCat("config vector ", state.config_vector));
  for (const uint16_t vector : state.queue_vectors) {
    if (!settled(vector)) return bad(absl::StrCat("queue vector ", vector));
  }
  if ((state.interrupt_status & ~(kQueueInterrupt | kConfigInterrupt)) != 0) {
    return bad(absl::StrCat("interrupt status ", state.interrupt_status));
  }
  {
    MutexLock lock(&mutex_);
    state_ = state;
  }
  MoveDoorbells(BarAddress(kBar));
  return absl::OkStatus();
}

}  // namespace cpr
