#include "vmm/pci/pci_function.h"

#include <algorithm>
#include <bit>
#include <string>

#include "absl/strings/str_format.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

constexpr uint8_t kMsixCapabilityId = 0x11;
constexpr unsigned kMsixControl = 2;  // offset in the capability
constexpr uint16_t kMsixEnable = 0x8000, kMsixFunctionMask = 0x4000;
constexpr uint16_t kStatusCapabilities = 0x10;
constexpr uint32_t kBarIo = 1, kBar64 = 4, kBarPrefetchable = 8;

bool Is64(PciBarKind kind) { return kind == PciBarKind::kMemory64 || kind == PciBarKind::kPrefetchable64; }

uint32_t BarFlags(PciBarKind kind) {
  if (kind == PciBarKind::kIo) return kBarIo;
  return (Is64(kind) ? kBar64 : 0) | (kind == PciBarKind::kPrefetchable64 ? kBarPrefetchable : 0);
}

unsigned BarOffset(unsigned index) { return kPciBar0 + 4 * index; }

uint64_t Get(absl::Span<const uint8_t> bytes, unsigned offset, unsigned size_bytes) {
  uint64_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= uint64_t{bytes[offset + i]} << (8 * i);
  return value;
}

void Put(absl::Span<uint8_t> bytes, unsigned offset, unsigned size_bytes, uint64_t value) {
  for (unsigned i = 0; i < size_bytes; ++i) bytes[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}

}  // namespace

PciFunction::PciFunction(const Identity& identity) {
  std::vector<uint8_t> config(identity.config_bytes);
  const auto put = [&config](unsigned offset, unsigned size_bytes, uint32_t value) {
    Put(absl::MakeSpan(config), offset, size_bytes, value);
  };
  put(0x00, 2, identity.vendor_id);
  put(0x02, 2, identity.device_id);
  put(0x08, 4, identity.class_code << 8 | identity.revision);
  put(0x2c, 2, identity.subsystem_vendor_id);
  put(0x2e, 2, identity.subsystem_id);
  put(kPciInterruptPin, 1, identity.interrupt_pin);
  MutexLock lock(&mutex_);
  config_ = initial_ = config;
  writable_.resize(config.size());
  Put(absl::MakeSpan(writable_), kPciCommand, 2, kPciCommandBusMaster | kPciCommandIntxDisable);
  Put(absl::MakeSpan(writable_), 0x0c, 1, 0xff);  // cache line size: memory for the guest
  Put(absl::MakeSpan(writable_), kPciInterruptLine, 1, 0xff);
}

PciFunction::PciFunction(std::vector<uint8_t> config, std::vector<uint8_t> writable)
    : config_(config), initial_(std::move(config)), writable_(std::move(writable)) {}

void PciFunction::SetConfig(unsigned offset, unsigned size_bytes, uint32_t value) {
  MutexLock lock(&mutex_);
  Put(absl::MakeSpan(config_), offset, size_bytes, value);
}

uint32_t PciFunction::Config(unsigned offset, unsigned size_bytes) const {
  MutexLock lock(&mutex_);
  return static_cast<uint32_t>(Get(config_, offset, size_bytes));
}

void PciFunction::AddBar(unsigned index, PciBarKind kind, uint64_t size_bytes) {
  bars_[index] = {kind, size_bytes};
  MutexLock lock(&mutex_);
  const unsigned registers = Is64(kind) ? 8 : 4;
  Put(absl::MakeSpan(writable_), BarOffset(index), registers, ~(size_bytes - 1));
  for (std::vector<uint8_t>* bytes : {&config_, &initial_}) {
    Put(absl::MakeSpan(*bytes), BarOffset(index), registers, BarFlags(kind));
  }
  writable_[kPciCommand] |= kind == PciBarKind::kIo ? kPciCommandIo : kPciCommandMemory;
}

unsigned PciFunction::AddCapability(uint8_t id, absl::Span<const uint8_t> body, absl::Span<const uint8_t> writable) {
  MutexLock lock(&mutex_);
  const unsigned offset = next_capability_;
  next_capability_ = (offset + 2 + static_cast<unsigned>(body.size()) + 3) / 4 * 4;
  for (std::vector<uint8_t>* bytes : {&config_, &initial_}) {
    (*bytes)[last_capability_link_] = static_cast<uint8_t>(offset);
    (*bytes)[kPciStatus] |= kStatusCapabilities;
    (*bytes)[offset] = id;
    std::copy(body.begin(), body.end(), bytes->begin() + offset + 2);
  }
  std::copy(writable.begin(), writable.end(), writable_.begin() + offset + 2);
  last_capability_link_ = offset + 1;
  return offset;
}

absl::Status PciFunction::AdoptMsix(unsigned capability, const MsixPlace& place, MsiRouter* router) {
  CPR_ASSIGN_OR_RETURN(msix_, Msix::Create(place.vectors, router, /*shared=*/true));
  msix_place_ = place;
  msix_place_.pba_bar = place.pba_bar.value_or(place.bar);
  msix_place_.pba_offset = place.pba_offset.value_or((place.table_offset + msix_->table_bytes() + 7) / 8 * 8);
  msix_capability_ = capability;
  return absl::OkStatus();
}

absl::Status PciFunction::AddMsix(const MsixPlace& place, MsiRouter* router) {
  CPR_ASSIGN_OR_RETURN(msix_, Msix::Create(place.vectors, router));
  msix_place_ = place;
  msix_place_.pba_bar = place.bar;
  const uint64_t pba = place.pba_offset.value_or((place.table_offset + msix_->table_bytes() + 7) / 8 * 8);
  msix_place_.pba_offset = pba;
  const uint64_t end = std::max(place.table_offset + msix_->table_bytes(), pba + msix_->pba_bytes());
  if (bars_[place.bar].kind == PciBarKind::kNone) {
    AddBar(place.bar, PciBarKind::kMemory32, std::bit_ceil(std::max<uint64_t>(end, 4096)));
  }
  if (bars_[place.bar].size_bytes < end) {
    return absl::InvalidArgumentError(absl::StrFormat("MSI-X table and PBA end at %#x of BAR %d, which has %#x bytes",
                                                      end, place.bar, bars_[place.bar].size_bytes));
  }
  std::array<uint8_t, 10> body = {}, writable = {};
  Put(absl::MakeSpan(body), 0, 2, place.vectors - 1);
  Put(absl::MakeSpan(body), 2, 4, place.table_offset | place.bar);
  Put(absl::MakeSpan(body), 6, 4, pba | place.bar);
  Put(absl::MakeSpan(writable), 0, 2, kMsixEnable | kMsixFunctionMask);
  msix_capability_ = AddCapability(kMsixCapabilityId, body, writable);
  return absl::OkStatus();
}

absl::Status PciFunction::DetachInterrupts() { return msix_ == nullptr ? absl::OkStatus() : msix_->DetachShared(); }

absl::Status PciFunction::AttachInterrupts() { return msix_ == nullptr ? absl::OkStatus() : msix_->AttachShared(); }

uint32_t PciFunction::ReadConfig(unsigned offset, unsigned size_bytes) {
  MutexLock lock(&mutex_);
  if (offset + size_bytes > config_.size()) return ~uint32_t{0};
  return static_cast<uint32_t>(Get(config_, offset, size_bytes));
}

void PciFunction::WriteConfig(unsigned offset, unsigned size_bytes, uint32_t value) {
  {
    MutexLock lock(&mutex_);
    if (offset + size_bytes > config_.size()) return;
    for (unsigned i = 0; i < size_bytes; ++i) {
      uint8_t& byte = config_[offset + i];
      const uint8_t mask = writable_[offset + i];
      byte = static_cast<uint8_t>((byte & ~mask) | ((value >> (8 * i)) & mask));
    }
  }
  UpdateMsixControl();
}

void PciFunction::UpdateMsixControl() {
  if (msix_ == nullptr) return;
  const uint32_t control = Config(msix_capability_ + kMsixControl, 2);
  msix_->SetControl((control & kMsixEnable) != 0, (control & kMsixFunctionMask) != 0);
}

void PciFunction::Reset() {
  {
    MutexLock lock(&mutex_);
    config_ = initial_;
  }
  // As many vectors as there are: this cannot be refused.
  if (msix_ != nullptr) msix_->Restore(std::vector<MsixVectorState>(msix_->size()), false, false).IgnoreError();
}

PciFunctionState PciFunction::Save() const {
  PciFunctionState state;
  {
    MutexLock lock(&mutex_);
    state.config = config_;
    for (size_t i = 0; i < config_.size(); ++i) {
      state.config[i] = static_cast<uint8_t>((config_[i] & writable_[i]) | (initial_[i] & ~writable_[i]));
    }
  }
  if (msix_ != nullptr) state.vectors = msix_->Save();
  return state;
}

absl::Status PciFunction::Validate(const PciFunctionState& state) const {
  if (state.config.size() != config_.size()) {
    return absl::DataLossError(
        absl::StrFormat("configuration space of %d bytes, the function has %d", state.config.size(), config_.size()));
  }
  for (size_t i = 0; i < config_.size(); ++i) {
    if (((state.config[i] ^ initial_[i]) & ~writable_[i]) != 0) {
      return absl::DataLossError(
          absl::StrFormat("configuration byte %#x is %#x, the function has %#x", i, state.config[i], initial_[i]));
    }
  }
  const size_t vectors = msix_ == nullptr ? 0 : msix_->size();
  if (state.vectors.size() == vectors) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("state of %d MSI-X vectors, the function has %d", state.vectors.size(), vectors));
}

absl::Status PciFunction::Restore(const PciFunctionState& state) {
  {
    MutexLock lock(&mutex_);
    CPR_RETURN_IF_ERROR(Validate(state));
    config_ = state.config;
  }
  if (msix_ == nullptr) return absl::OkStatus();
  const uint32_t control = Config(msix_capability_ + kMsixControl, 2);
  return msix_->Restore(state.vectors, (control & kMsixEnable) != 0, (control & kMsixFunctionMask) != 0);
}

bool PciFunction::bus_master() const { return (Config(kPciCommand, 2) & kPciCommandBusMaster) != 0; }

std::optional<uint64_t> PciFunction::BarAddress(unsigned index) const {
  const Bar& bar = bars_[index];
  if (bar.kind == PciBarKind::kNone) return std::nullopt;
  MutexLock lock(&mutex_);
  const uint16_t decode = bar.kind == PciBarKind::kIo ? kPciCommandIo : kPciCommandMemory;
  if ((Get(config_, kPciCommand, 2) & decode) == 0) return std::nullopt;
  const uint64_t address = Get(config_, BarOffset(index), Is64(bar.kind) ? 8 : 4) & ~(bar.size_bytes - 1);
  if (address == 0) return std::nullopt;
  return address;
}

void PciFunction::SetBarAddress(unsigned index, uint64_t address) {
  const Bar& bar = bars_[index];
  MutexLock lock(&mutex_);
  for (std::vector<uint8_t>* bytes : {&config_, &initial_}) {
    Put(absl::MakeSpan(*bytes), BarOffset(index), Is64(bar.kind) ? 8 : 4, address | BarFlags(bar.kind));
    (*bytes)[kPciCommand] |= bar.kind == PciBarKind::kIo ? kPciCommandIo : kPciCommandMemory;
  }
}

// Where in the MSI-X table or among the pending bits an access of the BAR is; nullopt: elsewhere.
std::optional<uint64_t> PciFunction::TableOffset(unsigned bar, uint64_t offset) const {
  if (msix_ == nullptr || bar != msix_place_.bar) return std::nullopt;
  const uint64_t table = offset - msix_place_.table_offset;
  return table < msix_->table_bytes() ? std::make_optional(table) : std::nullopt;
}

std::optional<uint64_t> PciFunction::PbaOffset(unsigned bar, uint64_t offset) const {
  if (msix_ == nullptr || bar != *msix_place_.pba_bar) return std::nullopt;
  const uint64_t pba = offset - *msix_place_.pba_offset;
  return pba < msix_->pba_bytes() ? std::make_optional(pba) : std::nullopt;
}

uint64_t PciFunction::AccessBarRead(unsigned bar, uint64_t offset, unsigned size_bytes) {
  if (const auto table = TableOffset(bar, offset)) return msix_->ReadTable(*table, size_bytes);
  if (const auto pba = PbaOffset(bar, offset)) return msix_->ReadPba(*pba, size_bytes);
  return ReadBar(bar, offset, size_bytes);
}

void PciFunction::AccessBarWrite(unsigned bar, uint64_t offset, unsigned size_bytes, uint64_t value) {
  if (const auto table = TableOffset(bar, offset)) return msix_->WriteTable(*table, size_bytes, value);
  if (PbaOffset(bar, offset).has_value()) return;
  WriteBar(bar, offset, size_bytes, value);
}

}  // namespace cpr
