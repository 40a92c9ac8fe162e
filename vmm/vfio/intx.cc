#include "vmm/vfio/intx.h"

#include <linux/vfio.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {

absl::StatusOr<std::unique_ptr<VfioIntx>> VfioIntx::Create(const vfio::Device* device, IntxRouter* router) {
  std::unique_ptr<VfioIntx> intx(new VfioIntx(device, router));
  for (UniqueFd* eventfd : {&intx->trigger_, &intx->resample_}) {
    eventfd->Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (eventfd->get() < 0) return ErrnoStatus(errno, "eventfd of INTx");
  }
  return intx;
}

absl::Status VfioIntx::Take(absl::Span<UniqueFd> arrived) {
  for (const UniqueFd& eventfd : arrived) CPR_RETURN_IF_ERROR(SetNonblocking(eventfd.get(), true));
  trigger_ = std::move(arrived[0]);
  resample_ = std::move(arrived[1]);
  held_ = true;
  return absl::OkStatus();
}

VfioIntx::~VfioIntx() {
  if (plugged_) router_->Remove(Line());
}

absl::Status VfioIntx::Plug(uint32_t gsi) {
  gsi_ = gsi;
  CPR_RETURN_IF_ERROR(router_->Add(Line()));
  plugged_ = true;
  return absl::OkStatus();
}

absl::Status VfioIntx::Enable() {
  const int trigger = trigger_.get();
  CPR_RETURN_IF_ERROR(device_->ConnectInterrupts(VFIO_PCI_INTX_IRQ_INDEX, 0, {&trigger, 1}));
  CPR_RETURN_IF_ERROR(device_->UnmaskIntxBy(resample_.get()));
  enabled_ = true;
  return Follow();
}

absl::Status VfioIntx::Disable() {
  enabled_ = false;
  CPR_RETURN_IF_ERROR(Follow());
  CPR_RETURN_IF_ERROR(device_->DisconnectInterrupts(VFIO_PCI_INTX_IRQ_INDEX));
  eventfd_t count = 0;
  ::eventfd_read(trigger_.get(), &count);  // one that came in between would be the next driver's
  return absl::OkStatus();
}

void VfioIntx::Adopt(bool enabled) { enabled_ = enabled; }

absl::Status VfioIntx::Hold() {
  held_ = true;
  return Follow();
}

absl::Status VfioIntx::Release() {
  held_ = false;
  return Follow();
}

absl::Status VfioIntx::Follow() {
  if (!plugged_) return absl::OkStatus();
  if (!enabled_) return router_->Close(Line());
  return held_ ? router_->Hold(Line()) : router_->Open(Line());
}

}  // namespace cpr
