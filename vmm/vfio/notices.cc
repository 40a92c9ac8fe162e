#include "vmm/vfio/notices.h"

#include <linux/vfio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr uint32_t kIrqIndexes[VfioNotices::kKinds] = {VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX};

// A device that is not PCI Express has no err; an older kernel, no req.
absl::StatusOr<bool> Has(const vfio::Device& device, uint32_t irq_index) {
  const absl::StatusOr<uint32_t> count = device.CountInterrupts(irq_index);
  if (StatusErrno(count.status()) == EINVAL) return false;
  CPR_RETURN_IF_ERROR(count.status());
  return *count > 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VfioNotices>> VfioNotices::Create(Wiring wiring, Fds arrived) {
  std::unique_ptr<VfioNotices> notices(new VfioNotices(std::move(wiring), std::move(arrived)));
  for (size_t kind = 0; kind < kKinds; ++kind) {
    UniqueFd& eventfd = notices->eventfds_[kind];
    if (eventfd.ok()) {
      CPR_RETURN_IF_ERROR(SetNonblocking(eventfd.get(), true));
      continue;
    }
    const absl::Status connected = notices->Connect(kIrqIndexes[kind], eventfd);
    if (connected.ok()) continue;
    eventfd.Reset();
    notices->wiring_.warn(absl::StrCat(connected.message(), ": goes without"));
  }
  if (notices->eventfds_[kReq].ok()) {
    // By edges: it is never read, and the kernel signals again and again while it waits.
    CPR_RETURN_IF_ERROR(notices->wiring_.loop->Watch(notices->eventfds_[kReq].get(), EPOLLIN | EPOLLET,
                                                     [raw = notices.get()](uint32_t) { raw->NoteRequest(); }));
  }
  return notices;
}

VfioNotices::~VfioNotices() {
  for (const UniqueFd& eventfd : eventfds_) {
    if (eventfd.ok()) wiring_.loop->Unwatch(eventfd.get());
  }
}

absl::Status VfioNotices::Connect(uint32_t irq_index, UniqueFd& eventfd) const {
  CPR_ASSIGN_OR_RETURN(const bool has, Has(*wiring_.device, irq_index));
  if (!has) return absl::OkStatus();
  eventfd.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!eventfd.ok()) return ErrnoStatus(errno, "eventfd");
  return wiring_.device->ConnectInterrupts(irq_index, 0, {eventfd.get()});
}

void VfioNotices::Hold() {
  if (eventfds_[kErr].ok()) wiring_.loop->Unwatch(eventfds_[kErr].get());
}

absl::Status VfioNotices::Release() {
  if (!eventfds_[kErr].ok()) return absl::OkStatus();
  return wiring_.loop->Watch(eventfds_[kErr].get(), EPOLLIN, [this](uint32_t) { TakeFailure(); });
}

void VfioNotices::TakeFailure() {
  eventfd_t count = 0;
  if (::eventfd_read(eventfds_[kErr].get(), &count) != 0) return;
  wiring_.failed("the device has reported an error that cannot be corrected: the guest is stopped");
}

// A request is never withdrawn.
void VfioNotices::NoteRequest() {
  if (std::exchange(requested_, true)) return;
  wiring_.warn(
      "the host wants the device back, unbound from its driver or removed, and waits for that until this VMM ends");
}

}  // namespace cpr
