#ifndef VMM_VIRTIO_FAKE_ROUTER_H_
#define VMM_VIRTIO_FAKE_ROUTER_H_

#include <map>

#include "vmm/pci/msi_router.h"

namespace cpr::testing {

// Stands in for KVM: knows who would listen to what.
class FakeRouter : public MsiRouter {
 public:
  absl::StatusOr<uint32_t> AllocateGsi() override { return next_gsi_++; }
  void SetRoute(uint32_t gsi, const MsiMessage& message) override { routes[gsi] = message; }
  absl::Status Commit() override { return absl::OkStatus(); }
  absl::Status Attach(int eventfd, uint32_t gsi) override {
    attached[gsi] = eventfd;
    return absl::OkStatus();
  }
  absl::Status Detach(int, uint32_t gsi) override {
    attached.erase(gsi);
    return absl::OkStatus();
  }

  static constexpr uint32_t kFirstGsi = 24;
  std::map<uint32_t, MsiMessage> routes;
  std::map<uint32_t, int> attached;

 private:
  uint32_t next_gsi_ = kFirstGsi;
};

}  // namespace cpr::testing

#endif  // VMM_VIRTIO_FAKE_ROUTER_H_
