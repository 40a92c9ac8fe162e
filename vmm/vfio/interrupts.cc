#include "vmm/vfio/interrupts.h"

#include <linux/vfio.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "vmm/pci/pci_function.h"

namespace cpr {
namespace {

size_t SizeOf(const Msix* table) { return table == nullptr ? 0 : table->size(); }

// Of the first `count` vectors of `table`; a null one has none.
absl::StatusOr<std::vector<int>> EventfdsOf(Msix* table, unsigned count = Msix::kMaxVectors) {
  std::vector<int> eventfds;
  for (unsigned i = 0; i < std::min<size_t>(count, SizeOf(table)); ++i) {
    CPR_ASSIGN_OR_RETURN(const int eventfd, table->Share(i));
    eventfds.push_back(eventfd);
  }
  return eventfds;
}

absl::Status TakeVectors(Msix* table, absl::Span<UniqueFd> eventfds) {
  for (unsigned i = 0; i < eventfds.size(); ++i) CPR_RETURN_IF_ERROR(table->AdoptShared(i, std::move(eventfds[i])));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<VfioInterrupts>> VfioInterrupts::Create(const VfioConfigSpace& shown, Wiring wiring,
                                                                       std::vector<UniqueFd>* arrived) {
  std::unique_ptr<VfioInterrupts> made(new VfioInterrupts(std::move(wiring)));
  if (shown.msi.has_value()) {
    CPR_ASSIGN_OR_RETURN(made->msi_, Msix::Create(shown.msi->vectors, made->wiring_.router, /*shared=*/true));
  }
  if (shown.bytes[kPciInterruptPin] != 0) {
    CPR_ASSIGN_OR_RETURN(made->intx_, VfioIntx::Create(made->wiring_.device, made->wiring_.intx_router));
  }
  if (arrived != nullptr) CPR_RETURN_IF_ERROR(made->Take(*arrived));
  return made;
}

absl::Status VfioInterrupts::Take(std::vector<UniqueFd>& arrived) {
  const size_t of_msix = SizeOf(wiring_.msix), of_msi = SizeOf(msi_.get());
  const size_t of_intx = intx_ == nullptr ? 0 : VfioIntx::kEventfds;
  if (arrived.size() != of_msix + of_msi + of_intx) {
    return absl::FailedPreconditionError(
        absl::StrCat(arrived.size(), " eventfds of interrupts, the device has ", of_msix + of_msi + of_intx));
  }
  arrived_ = true;
  const absl::Span<UniqueFd> all = absl::MakeSpan(arrived);
  CPR_RETURN_IF_ERROR(TakeVectors(wiring_.msix, all.subspan(0, of_msix)));
  CPR_RETURN_IF_ERROR(TakeVectors(msi_.get(), all.subspan(of_msix, of_msi)));
  return intx_ == nullptr ? absl::OkStatus() : intx_->Take(all.subspan(of_msix + of_msi));
}

absl::StatusOr<std::vector<int>> VfioInterrupts::Eventfds() {
  CPR_ASSIGN_OR_RETURN(std::vector<int> eventfds, EventfdsOf(wiring_.msix));
  CPR_ASSIGN_OR_RETURN(const std::vector<int> msi, EventfdsOf(msi_.get()));
  const std::vector<int> intx = intx_ == nullptr ? std::vector<int>() : intx_->Eventfds();
  eventfds.insert(eventfds.end(), msi.begin(), msi.end());
  eventfds.insert(eventfds.end(), intx.begin(), intx.end());
  return eventfds;
}

void VfioInterrupts::Plug(uint32_t gsi) {
  if (intx_ == nullptr) return;
  Check(intx_->Plug(gsi));
  if (!arrived_) Check(intx_->Enable());
}

// The kernel takes another kind, or another number of vectors, only once the first is off.
void VfioInterrupts::Follow(const Setting& before, const Setting& now) {
  const bool same_vectors = before.msix == now.msix && before.msi.vectors == now.msi.vectors;
  if (same_vectors) return ApplyMsi(now.msi);
  SwitchOff(before);
  SwitchOn(now);
}

// A guest that has both on gets those of MSI-X. What waits for a mask to go ends here: the next driver, perhaps after a
// reset, has not asked for it.
void VfioInterrupts::SwitchOff(const Setting& setting) {
  if (!setting.msix && setting.msi.vectors == 0) {
    if (intx_ != nullptr) Check(intx_->Disable());
    return;
  }
  Check(wiring_.device->DisconnectInterrupts(setting.msix ? VFIO_PCI_MSIX_IRQ_INDEX : VFIO_PCI_MSI_IRQ_INDEX));
  (setting.msix ? wiring_.msix : msi_.get())->DiscardShared();
}

void VfioInterrupts::SwitchOn(const Setting& setting) {
  ApplyMsi(setting.msi);
  if (!setting.msix && setting.msi.vectors == 0) {
    if (intx_ != nullptr) Check(intx_->Enable());
    return;
  }
  const absl::StatusOr<std::vector<int>> eventfds =
      setting.msix ? EventfdsOf(wiring_.msix) : EventfdsOf(msi_.get(), setting.msi.vectors);
  if (!eventfds.ok()) return Check(eventfds.status());
  Check(
      wiring_.device->ConnectInterrupts(setting.msix ? VFIO_PCI_MSIX_IRQ_INDEX : VFIO_PCI_MSI_IRQ_INDEX, 0, *eventfds));
}

void VfioInterrupts::Adopt(const Setting& setting) {
  ApplyMsi(setting.msi);
  if (intx_ != nullptr) intx_->Adopt(!setting.msix && setting.msi.vectors == 0);
}

void VfioInterrupts::ApplyMsi(const MsiRegisters& registers) {
  if (msi_ == nullptr) return;
  // As many vectors as there are: this cannot be refused.
  msi_->Restore(MsiAsTable(registers, msi_->size()), registers.vectors > 0, false).IgnoreError();
}

absl::Status VfioInterrupts::Hold() {
  if (msi_ != nullptr) CPR_RETURN_IF_ERROR(msi_->DetachShared());
  return intx_ == nullptr ? absl::OkStatus() : intx_->Hold();
}

absl::Status VfioInterrupts::Release() {
  if (msi_ != nullptr) CPR_RETURN_IF_ERROR(msi_->AttachShared());
  return intx_ == nullptr ? absl::OkStatus() : intx_->Release();
}

void VfioInterrupts::Check(const absl::Status& status) const {
  if (!status.ok()) wiring_.warn(absl::StrCat("interrupts: ", status.message()));
}

}  // namespace cpr
