#ifndef VMM_VFIO_NOTICES_H_
#define VMM_VFIO_NOTICES_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/vfio/device.h"
#include "vmm/event_loop/event_loop.h"

namespace cpr {

// What a device of the host has to say to the VMM, not to the guest: that it has failed (err), and that the host wants
// it back (req). Each comes by an eventfd that travels with the guest, so that nothing is lost in between: a failure is
// read by the VMM that has the guest, once; a request by nobody, so that each VMM that has the device finds it there.
// To be used on the event loop's thread.
class VfioNotices {
 public:
  static constexpr size_t kKinds = 2;  // err, req
  using Fds = std::array<UniqueFd, kKinds>;

  struct Wiring {
    const vfio::Device* device = nullptr;  // must outlive the object, and so must the loop
    EventLoop* loop = nullptr;
    // The device has failed: the guest cannot go on with it. May hold the object, not destroy it.
    std::function<void(const std::string& text)> failed;
    std::function<void(const std::string& text)> warn;
  };
  // Takes those that have come (-1: has not) with a device that signals them already and is told nothing. Of the others
  // it is told new ones, as far as it has them; one that the kernel refuses is warned of and done without.
  static absl::StatusOr<std::unique_ptr<VfioNotices>> Create(Wiring wiring, Fds arrived);
  ~VfioNotices();
  VfioNotices(const VfioNotices&) = delete;
  VfioNotices& operator=(const VfioNotices&) = delete;

  // Lent; -1 where the device has none.
  std::array<int, kKinds> fds() const { return {eventfds_[kErr].get(), eventfds_[kReq].get()}; }

  // For stop and resume of the machine: a failure waits from Create, or Hold, to Release. Errors carry errno.
  void Hold();
  absl::Status Release();

 private:
  enum Kind : size_t { kErr, kReq };

  VfioNotices(Wiring wiring, Fds eventfds) : wiring_(std::move(wiring)), eventfds_(std::move(eventfds)) {}
  absl::Status Connect(uint32_t irq_index, UniqueFd& eventfd) const;
  void TakeFailure();
  void NoteRequest();

  const Wiring wiring_;
  Fds eventfds_;
  bool requested_ = false;
};

}  // namespace cpr

#endif  // VMM_VFIO_NOTICES_H_
