#ifndef VMM_PCI_MSIX_H_
#define VMM_PCI_MSIX_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mutex.h"
#include "libcpr/base/unique_fd.h"
#include "vmm/devices/msi_message.h"
#include "vmm/pci/msi_router.h"

namespace cpr {

// One entry of an MSI-X table, and its pending bit.
struct MsixVectorState {
  MsiMessage message;
  bool masked = true;
  bool pending = false;

  friend bool operator==(const MsixVectorState&, const MsixVectorState&) = default;
};

// The MSI-X table and pending bits of a PCI function, and its vectors' way to the guest: one eventfd each, attached to
// KVM. Thread-safe. Source: PCI Local Bus 3.0, 6.8.2.
//
// A vector belongs to its device alone, which calls Signal; KVM listens to its eventfd from the start, and masking it
// costs no system call. Or it is shared with others who write to its eventfd by themselves (vhost, VFIO): then KVM
// listens only while it is not masked, and the eventfd's counter is the pending bit.
class Msix {
 public:
  static constexpr unsigned kMaxVectors = 2048;
  static constexpr unsigned kEntryBytes = 16;

  // kInvalidArgument: `vectors` is 0 or beyond kMaxVectors. Errors of `router`, which must outlive the object.
  // With `shared` all vectors are as after Share: KVM is not told of those that the guest never uses.
  static absl::StatusOr<std::unique_ptr<Msix>> Create(unsigned vectors, MsiRouter* router, bool shared = false);
  ~Msix();
  Msix(const Msix&) = delete;
  Msix& operator=(const Msix&) = delete;

  unsigned size() const { return static_cast<unsigned>(vectors_.size()); }
  uint64_t table_bytes() const { return uint64_t{size()} * kEntryBytes; }
  uint64_t pba_bytes() const { return (uint64_t{size()} + 63) / 64 * 8; }

  // Interrupts the guest, now or once it unmasks `vector`. Nothing happens while MSI-X is off, or beyond size(): the
  // guest may have asked for that. On any thread.
  void Signal(unsigned vector);

  // Makes `vector` (below size()) one that others signal, and lends its eventfd. While the guest is paused,
  // DetachShared lets what they write gather in the eventfd.
  absl::StatusOr<int> Share(unsigned vector);
  // The same with the eventfd of a guest that came in, with what has gathered in it. Takes `eventfd` always. KVM
  // listens from AttachShared on.
  absl::Status AdoptShared(unsigned vector, UniqueFd eventfd);
  // For stop and resume of the machine. Nothing is done for vectors that are not shared: their device is quiet.
  absl::Status DetachShared();
  absl::Status AttachShared();
  // Forgets what has gathered for shared vectors, and so is pending: who signals is not connected any more.
  void DiscardShared();

  // The guest's accesses of 1 to 8 bytes; offsets below table_bytes() and pba_bytes().
  uint64_t ReadTable(uint64_t offset, unsigned size_bytes) const;
  void WriteTable(uint64_t offset, unsigned size_bytes, uint64_t value);
  uint64_t ReadPba(uint64_t offset, unsigned size_bytes) const;
  // Message control: MSI-X enable and function mask.
  void SetControl(bool enabled, bool masked);

  std::vector<MsixVectorState> Save() const;
  // kDataLoss: not size() entries; nothing has changed then. Takes effect with the control bits given.
  absl::Status Restore(const std::vector<MsixVectorState>& state, bool enabled, bool masked);

 private:
  struct Vector {
    UniqueFd eventfd;
    uint32_t gsi = 0;
    bool shared = false;
    bool attached = false;
    MsixVectorState state;
  };
  explicit Msix(MsiRouter* router) : router_(router) {}
  bool Open(const Vector& vector) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Pending(const Vector& vector) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Update() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Follow(Vector& vector, bool attach) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t TableDword(uint64_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetTableDword(uint64_t index, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  MsiRouter* const router_;
  mutable Mutex mutex_;
  bool enabled_ ABSL_GUARDED_BY(mutex_) = false;
  bool masked_ ABSL_GUARDED_BY(mutex_) = false;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;  // between DetachShared and AttachShared
  // Its size never changes after Create.
  std::vector<Vector> vectors_;
};

}  // namespace cpr

#endif  // VMM_PCI_MSIX_H_
