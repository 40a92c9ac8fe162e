#ifndef VMM_VIRTIO_DEVICE_SET_H_
#define VMM_VIRTIO_DEVICE_SET_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/preserve/fd_table.h"
#include "libcpr/vmstate/section.h"
#include "vmm/chardev/chardev.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/pci/pci_host.h"
#include "vmm/virtio/blk.h"
#include "vmm/virtio/config.h"
#include "vmm/virtio/console.h"
#include "vmm/virtio/net.h"
#include "vmm/virtio/pci.h"
#include "vmm/virtio/rng.h"
#include "vmm/virtio/vhost_net.h"

namespace cpr {

// A machine's virtio devices, each on the PCI bus and with its host side: images, chardevs. Must be made, used and
// destroyed on the event loop's thread.
//
// Quiesce comes before the vCPUs are parked, so that the guest runs while the disks finish what they have begun. In a
// handover, old side: HoldConnections, AddFds, AddSections (prepare); Quiesce and QuiesceChardevs (stop); then
// ReleaseToPeer, or Resume and ResumeChardevs if it was called off. New side: Create with the fds that came,
// AddSections, Resume, ResumeChardevs.
class VirtioDeviceSet {
 public:
  // All but the host must outlive the set. The host is asked for places only, and must be gone before the set is: what
  // is on a bus outlives it.
  struct Surroundings {
    const GuestMemory* memory = nullptr;
    EventLoop* loop = nullptr;
    PciHost* host = nullptr;
    MsiRouter* router = nullptr;
    VirtioPci::Doorbell doorbell;
    // Called on the loop's thread with what the user should know; may be empty.
    std::function<void(const std::string& text)> warn = nullptr;
    IoctlFunction vhost_ioctl = nullptr;  // empty: the kernel's
  };
  // Opens what the devices need, or takes it out of `fds` where it has come with the guest (null: nothing has). The
  // devices are quiesced until Resume, and the chardevs of a guest that has come until ResumeChardevs. Errors name the
  // device; the host is of no use after one.
  static absl::StatusOr<std::unique_ptr<VirtioDeviceSet>> Create(const Surroundings& surroundings,
                                                                 absl::Span<const VirtioDeviceConfig> configs,
                                                                 FdTable* fds);
  ~VirtioDeviceSet();
  VirtioDeviceSet(const VirtioDeviceSet&) = delete;
  VirtioDeviceSet& operator=(const VirtioDeviceSet&) = delete;

  // What is in `fds` for the chardev of `port` is not for the device of this instance: closed.
  static absl::Status DropPortFds(uint32_t instance, size_t port, FdTable& fds);

  // Ends what is under way; returns when it is done. The disk's requests take as long as the disk takes.
  void Quiesce();
  // Lets input and requests in. A guest that is reset needs nothing else: its bus resets the devices.
  void Resume();

  // From here to ResumeChardevs nobody is connected to a chardev.
  void HoldConnections();
  // Nothing is read or written from here to ResumeChardevs.
  void QuiesceChardevs();
  void ResumeChardevs();
  // The new VMM has the guest, and the fds if `fds_went`; otherwise the images are unlocked for it to open.
  void ReleaseToPeer(bool fds_went);
  // Has what the host's page cache holds of the images on their disks. Errors name the image and carry errno.
  absl::Status FlushImages() const;
  // The guest is to run here again after ReleaseToPeer(false): locks the images. kFailedPrecondition: somebody else has
  // one; none is locked then.
  absl::Status TakeImagesBack();

  // The chardevs of all ports, with the ids that -chardev gave them.
  std::vector<std::pair<std::string, const Chardev*>> chardevs() const;

  // The devices as they are: with the names of taps that came as fds or had none.
  std::vector<VirtioDeviceConfig> configs() const;

  size_t size() const { return devices_.size(); }
  VirtioDevice& device(size_t index) { return *devices_[index]->device; }

  // Duplicates of what has to outlive this VMM.
  absl::Status AddFds(FdTable& fds) const;
  // The devices' states; the functions' of the bus are its own, and come first.
  absl::Status AddSections(SectionRegistry& sections);
  static std::vector<SectionSupport> Support();

 private:
  struct Device {
    VirtioDeviceConfig config;
    VirtioBlk* blk = nullptr;  // one of the four
    VirtioConsole* console = nullptr;
    VirtioRng* rng = nullptr;
    VirtioNet* net = nullptr;
    std::vector<std::unique_ptr<Chardev>> chardevs;  // of the console's ports
    std::unique_ptr<VirtioDevice> device;
    std::unique_ptr<VirtioPci> pci;
  };

  explicit VirtioDeviceSet(EventLoop* loop) : loop_(loop), self_(std::make_shared<VirtioDeviceSet*>(this)) {}
  absl::Status Add(const Surroundings& surroundings, const VirtioDeviceConfig& config, FdTable* fds);
  absl::Status MakeBlk(const GuestMemory* memory, uint32_t instance, FdTable* fds, Device* device);
  absl::Status MakeConsole(const GuestMemory* memory, uint32_t instance, FdTable* fds, Device* device);
  absl::Status MakeNet(const Surroundings& surroundings, uint32_t instance, FdTable* fds, Device* device);
  std::function<void(const absl::Status& why)> FallBackOf(const Surroundings& surroundings, uint32_t instance);
  absl::Status WatchNet(Device& device);
  absl::Status WatchQueues(VirtioDevice* device);
  void ConnectPorts(Device& device);
  template <typename Callback>
  void ForEachChardev(Callback callback) {
    for (const auto& device : devices_) {
      for (const auto& chardev : device->chardevs) callback(*chardev);
    }
  }

  EventLoop* const loop_;
  // Work posted to the loop holds this weakly: it must not find a dead set.
  const std::shared_ptr<VirtioDeviceSet*> self_;
  std::vector<std::unique_ptr<Device>> devices_;
  bool images_unlocked_ = false;
};

}  // namespace cpr

#endif  // VMM_VIRTIO_DEVICE_SET_H_
