#include "vmm/pci/msix.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

// Dwords of a table entry.
constexpr unsigned kAddressLow = 0, kAddressHigh = 1, kData = 2, kControl = 3;
constexpr uint32_t kVectorMasked = 1;

bool Readable(int fd) {
  pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, 0) == 1;
}

// A full counter needs no more.
void Notify(int eventfd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(eventfd, &one, sizeof(one));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Msix>> Msix::Create(unsigned vectors, MsiRouter* router, bool shared) {
  if (vectors == 0 || vectors > kMaxVectors) {
    return absl::InvalidArgumentError(absl::StrCat("MSI-X with ", vectors, " vectors"));
  }
  std::unique_ptr<Msix> msix(new Msix(router));
  msix->vectors_.resize(vectors);
  MutexLock lock(&msix->mutex_);
  for (Vector& vector : msix->vectors_) {
    vector.eventfd.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (vector.eventfd.get() < 0) return ErrnoStatus(errno, "eventfd of an MSI-X vector");
    CPR_ASSIGN_OR_RETURN(vector.gsi, router->AllocateGsi());
    vector.shared = shared;
    CPR_RETURN_IF_ERROR(msix->Follow(vector, !shared));
  }
  return msix;
}

Msix::~Msix() {
  MutexLock lock(&mutex_);
  for (Vector& vector : vectors_) Follow(vector, false).IgnoreError();
}

bool Msix::Open(const Vector& vector) const { return enabled_ && !masked_ && !vector.state.masked; }

bool Msix::Pending(const Vector& vector) const {
  return vector.shared ? !vector.attached && Readable(vector.eventfd.get()) : vector.state.pending;
}

absl::Status Msix::Follow(Vector& vector, bool attach) {
  if (vector.attached == attach) return absl::OkStatus();
  CPR_RETURN_IF_ERROR(attach ? router_->Attach(vector.eventfd.get(), vector.gsi)
                             : router_->Detach(vector.eventfd.get(), vector.gsi));
  vector.attached = attach;
  return absl::OkStatus();
}

// Routes first, all at once; then what they make possible. The guest cannot be told of a refusal: it loses interrupts.
void Msix::Update() {
  for (Vector& vector : vectors_) {
    if (Open(vector)) router_->SetRoute(vector.gsi, vector.state.message);
  }
  router_->Commit().IgnoreError();
  for (Vector& vector : vectors_) {
    if (vector.shared) {
      Follow(vector, Open(vector) && !held_).IgnoreError();
    } else if (Open(vector) && std::exchange(vector.state.pending, false)) {
      Notify(vector.eventfd.get());
    }
  }
}

void Msix::Signal(unsigned vector) {
  MutexLock lock(&mutex_);
  if (vector >= vectors_.size() || !enabled_) return;
  Vector& signalled = vectors_[vector];
  if (signalled.shared || Open(signalled)) return Notify(signalled.eventfd.get());
  signalled.state.pending = true;
}

absl::StatusOr<int> Msix::Share(unsigned vector) {
  MutexLock lock(&mutex_);
  Vector& shared = vectors_[vector];
  if (!shared.shared) {
    CPR_RETURN_IF_ERROR(Follow(shared, Open(shared) && !held_));
    shared.shared = true;
    if (std::exchange(shared.state.pending, false)) Notify(shared.eventfd.get());
  }
  return shared.eventfd.get();
}

absl::Status Msix::AdoptShared(unsigned vector, UniqueFd eventfd) {
  MutexLock lock(&mutex_);
  Vector& shared = vectors_[vector];
  CPR_RETURN_IF_ERROR(Follow(shared, false));
  shared.eventfd = std::move(eventfd);
  shared.shared = true;
  held_ = true;
  return absl::OkStatus();
}

absl::Status Msix::DetachShared() {
  MutexLock lock(&mutex_);
  held_ = true;
  absl::Status status;
  for (Vector& vector : vectors_) {
    if (vector.shared) status.Update(Follow(vector, false));
  }
  return status;
}

absl::Status Msix::AttachShared() {
  MutexLock lock(&mutex_);
  held_ = false;
  absl::Status status;
  for (Vector& vector : vectors_) {
    if (vector.shared) status.Update(Follow(vector, Open(vector)));
  }
  return status;
}

void Msix::DiscardShared() {
  MutexLock lock(&mutex_);
  for (const Vector& vector : vectors_) {
    eventfd_t count = 0;
    if (vector.shared) ::eventfd_read(vector.eventfd.get(), &count);
  }
}

uint64_t Msix::TableDword(uint64_t index) const {
  if (index / 4 >= vectors_.size()) return 0;
  const MsixVectorState& state = vectors_[index / 4].state;
  switch (index % 4) {
    case kAddressLow:
      return static_cast<uint32_t>(state.message.address);
    case kAddressHigh:
      return state.message.address >> 32;
    case kData:
      return state.message.data;
    default:
      return state.masked ? kVectorMasked : 0;
  }
}

void Msix::SetTableDword(uint64_t index, uint32_t value) {
  if (index / 4 >= vectors_.size()) return;
  MsixVectorState& state = vectors_[index / 4].state;
  uint64_t& address = state.message.address;
  switch (index % 4) {
    case kAddressLow:
      address = (address & ~uint64_t{0xffffffff}) | (value & ~3u);
      break;
    case kAddressHigh:
      address = (address & 0xffffffff) | (uint64_t{value} << 32);
      break;
    case kData:
      state.message.data = value;
      break;
    case kControl:
      state.masked = (value & kVectorMasked) != 0;
      break;
  }
}

uint64_t Msix::ReadTable(uint64_t offset, unsigned size_bytes) const {
  MutexLock lock(&mutex_);
  uint64_t value = TableDword(offset / 4) >> (8 * (offset % 4));
  if (size_bytes == 8) value |= TableDword(offset / 4 + 1) << 32;
  return value;
}

void Msix::WriteTable(uint64_t offset, unsigned size_bytes, uint64_t value) {
  if (offset % 4 != 0 || size_bytes < 4) return;  // the standard knows dwords and qwords alone
  MutexLock lock(&mutex_);
  SetTableDword(offset / 4, static_cast<uint32_t>(value));
  if (size_bytes == 8) SetTableDword(offset / 4 + 1, static_cast<uint32_t>(value >> 32));
  if (enabled_) Update();
}

uint64_t Msix::ReadPba(uint64_t offset, unsigned size_bytes) const {
  MutexLock lock(&mutex_);
  uint64_t bits = 0;
  for (uint64_t i = 0; i < 8 * uint64_t{size_bytes}; ++i) {
    const uint64_t vector = 8 * offset + i;
    if (vector < vectors_.size() && Pending(vectors_[vector])) bits |= uint64_t{1} << i;
  }
  return bits;
}

void Msix::SetControl(bool enabled, bool masked) {
  MutexLock lock(&mutex_);
  if (enabled_ == enabled && masked_ == masked) return;
  enabled_ = enabled;
  masked_ = masked;
  Update();
}

std::vector<MsixVectorState> Msix::Save() const {
  MutexLock lock(&mutex_);
  std::vector<MsixVectorState> state;
  for (const Vector& vector : vectors_) {
    state.push_back(vector.state);
    state.back().pending = Pending(vector);
  }
  return state;
}

absl::Status Msix::Restore(const std::vector<MsixVectorState>& state, bool enabled, bool masked) {
  if (state.size() != size()) {
    return absl::DataLossError(absl::StrCat("state of ", state.size(), " MSI-X vectors, the function has ", size()));
  }
  MutexLock lock(&mutex_);
  enabled_ = enabled;
  masked_ = masked;
  for (size_t i = 0; i < state.size(); ++i) {
    Vector& vector = vectors_[i];
    vector.state = state[i];
    if (!vector.shared) continue;
    vector.state.pending = false;  // its eventfd says
    if (state[i].pending && !Readable(vector.eventfd.get())) Notify(vector.eventfd.get());
  }
  Update();
  return absl::OkStatus();
}

}  // namespace cpr
