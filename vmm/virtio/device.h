#ifndef VMM_VIRTIO_DEVICE_H_
#define VMM_VIRTIO_DEVICE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/mutex.h"
#include "libcpr/base/unique_fd.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/virtio/virtqueue.h"

namespace cpr {

// What every virtio device remembers, whatever bus it is on.
struct VirtioState {
  uint64_t driver_features = 0;
  uint8_t status = 0;
  uint8_t config_generation = 0;
  std::vector<VirtqueueState> queues;

  friend bool operator==(const VirtioState&, const VirtioState&) = default;
};

// A virtio 1.x device without its bus: status, features, queues. A subclass adds what the device does.
//
// Thread-safe. Registers are written on vCPU threads; queues are served on the thread that Serve is called on, which is
// the subclass's choice. One mutex guards all of it; whatever blocks is done without it. A driver that breaks a rule
// gets DEVICE_NEEDS_RESET, and nothing of the queues is looked at until it has reset the device.
//
// A device is made quiesced: requests wait in their queues, where a new VMM finds them, until Resume.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 2.1-2.2, 3.1.
class VirtioDevice {
 public:
  struct Traits {
    uint16_t device_id = 0;
    uint64_t features = 0;  // beside those that every device here has
    std::vector<uint16_t> queue_sizes;
  };
  // Called with the device locked, on any thread: must not call it back.
  struct Interrupts {
    std::function<void(unsigned queue)> queue;
    std::function<void()> config;
    // The eventfd (lent) that stands for the first, for those who do not come by here; -1: the driver wants none.
    // Empty: there are none.
    std::function<absl::StatusOr<int>(unsigned queue)> queue_eventfd = nullptr;
  };

  // `memory` must outlive the device.
  VirtioDevice(const GuestMemory* memory, Traits traits);
  virtual ~VirtioDevice() = default;
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;

  uint16_t device_id() const { return traits_.device_id; }
  uint64_t features() const { return traits_.features; }
  unsigned queue_count() const { return static_cast<unsigned>(traits_.queue_sizes.size()); }

  // Before the guest runs.
  void Connect(Interrupts interrupts);
  // What `queue_eventfd` would say of `queue` has changed.
  void InterruptMoved(unsigned queue);

  // The driver's registers.
  uint8_t status() const;
  // 0 resets the device, and waits for what it has under way.
  void WriteStatus(uint8_t status);
  uint64_t driver_features() const;
  void WriteDriverFeatures(uint64_t features);  // ignored once they are settled
  uint8_t config_generation() const;
  // Queues that do not exist have size 0.
  VirtqueueState queue(unsigned index) const;
  // Ignored for a queue that is enabled; a driver can only reset the device then. Sizes are as the driver says: they
  // are judged when it says DRIVER_OK.
  void ConfigureQueue(unsigned index, absl::FunctionRef<void(VirtqueueState&)> change);
  // The device's own configuration. What is beyond it reads as 0, and cannot be written.
  void ReadConfig(uint64_t offset, absl::Span<uint8_t> data) const;
  void WriteConfig(uint64_t offset, absl::Span<const uint8_t> data);

  // Signalled when the driver notifies `queue`: for an ioeventfd. Lent.
  int notify_fd(unsigned queue) const { return notify_fds_[queue].get(); }
  // As if notified. Thread-safe, never waits.
  void Notify(unsigned queue);
  // Serves what is in `queue`, for a bounded time: if there is more it notifies itself. Takes the notification. Does
  // nothing if somebody else serves it.
  void Serve(unsigned queue);

  // Takes no request from here to Resume, and waits for those under way.
  void Quiesce();
  // Looks into every queue again.
  void Resume();

  VirtioState SaveVirtio() const;

 protected:
  // Whether `state` can be this device's. kDataLoss: no driver could have brought it there.
  absl::Status CheckVirtio(const VirtioState& state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes over a state that CheckVirtio has found good.
  void RestoreVirtio(const VirtioState& state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The queue, if the driver is up and it is enabled.
  Virtqueue* active_queue(unsigned index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t settled_features() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return state_.driver_features; }
  bool has_feature(unsigned bit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Interrupts the driver if it wants that.
  void SignalQueue(unsigned index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SignalConfig() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Interrupts::queue_eventfd's answer.
  absl::StatusOr<int> QueueEventfd(unsigned index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Break() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  enum class Served {
    kOne,        // there may be more
    kEmpty,      // the driver has made no request available
    kListening,  // it has made too few, and ListenForMore has asked it for more
    kIdle,       // there is nothing to give the driver; the device calls Notify when there is
  };
  // Serves one request of `queue`, at `index`. An error breaks the device. The lock may be given up meanwhile, with a
  // request counted by BeginRequest, and the queue is still there then.
  virtual absl::StatusOr<Served> ServeOne(unsigned index, Virtqueue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;
  // The driver has reset the device, or its state is to be replaced.
  virtual void OnReset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  // The driver is up with the features it wants: it has said so, or had before its state was restored.
  virtual void OnActivate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  // The driver is up, and nothing keeps its requests from being served: until OnStop. True: somebody else serves them,
  // and hears the notifications.
  virtual bool OnStart() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return false; }
  // After an OnStart that was true: they have to be done with what they have begun when this returns, and the queues
  // have to know how far they have come.
  virtual void OnStop() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  // While somebody else serves the queues.
  virtual void OnInterruptMoved(unsigned) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}
  virtual std::vector<uint8_t> Config() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return {}; }
  virtual void WriteOwnConfig(uint64_t, absl::Span<const uint8_t>) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {}

  void BeginRequest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { ++requests_; }
  void EndRequest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GuestMemory& memory() const { return *memory_; }
  mutable Mutex mutex_;

 private:
  Virtqueue::Features QueueFeatures(uint64_t driver_features) const;
  // Takes no request until Unhold, and waits for those under way.
  void Hold() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unhold() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Start() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Reset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Activate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The queue, if it is active and may be served now.
  Virtqueue* ready_queue(unsigned index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return holds_ > 0 ? nullptr : active_queue(index);
  }
  absl::Status ServeSome(unsigned index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GuestMemory* const memory_;
  const Traits traits_;
  std::vector<UniqueFd> notify_fds_;
  Interrupts interrupts_ ABSL_GUARDED_BY(mutex_);
  VirtioState state_ ABSL_GUARDED_BY(mutex_);  // of active queues, all but their progress
  std::vector<std::optional<Virtqueue>> queues_ ABSL_GUARDED_BY(mutex_);
  int holds_ ABSL_GUARDED_BY(mutex_) = 1;
  bool quiesced_ ABSL_GUARDED_BY(mutex_) = true;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;    // between OnStart and what ends it
  bool elsewhere_ ABSL_GUARDED_BY(mutex_) = false;  // somebody else serves the queues
  int requests_ ABSL_GUARDED_BY(mutex_) = 0;        // under way, without the lock
  CondVar idle_;
};

}  // namespace cpr

#endif  // VMM_VIRTIO_DEVICE_H_
