#include "vmm/vfio/vfio_state.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/section_conformance.h"

namespace cpr::testing {
namespace {

struct VfioStateTraits {
  using Object = VfioState;
  using Proto = v1::VfioState;

  static std::unique_ptr<VfioState> Create() { return std::make_unique<VfioState>(); }
  static void Modify(VfioState& state) {
    state.mappings = {{0, 0xc0000000}, {uint64_t{4} << 30, 0x40000000}};
    state.iommufds = {{"i0", 2}};
    const VfioIdentity nvme = {.vendor_id = 0x1b36, .device_id = 0x0010, .bar_bytes = {0x4000, 0, 0, 0, 0, 0x1000}};
    state.devices = {{.group = 7, .interrupts = 65, .identity = nvme}, {.group = 9, .interrupts = 0}};
    state.devices_come = false;
  }
  static Proto Save(const VfioState& state) { return VfioStateToProto(state); }
  static absl::Status Restore(VfioState& state, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(state, VfioStateFromProto(proto));
    return absl::OkStatus();
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"a device too few", [](Proto& p) { p.mutable_devices()->RemoveLast(); }},
            {"more interrupts than PCI has", [](Proto& p) { p.mutable_devices(0)->set_interrupts(2083); }},
            {"a device without its group", [](Proto& p) { p.mutable_devices(1)->clear_group(); }},
            {"a vendor beyond 16 bits", [](Proto& p) { p.mutable_devices(0)->set_vendor_id(0x10000); }},
            {"a device without its id", [](Proto& p) { p.mutable_devices(0)->clear_device_id(); }},
            {"a BAR too few", [](Proto& p) { p.mutable_devices(1)->mutable_bar_bytes()->RemoveLast(); }},
            {"a BAR too many", [](Proto& p) { p.mutable_devices(1)->add_bar_bytes(16); }},
            {"not said whether devices come", [](Proto& p) { p.clear_devices_come(); }},
            {"a mapping without size", [](Proto& p) { p.mutable_mappings(0)->clear_size_bytes(); }},
            {"an iommufd without address space", [](Proto& p) { p.mutable_iommufds(0)->clear_ioas_id(); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(VfioState, SectionConformance, VfioStateTraits);

}  // namespace
}  // namespace cpr::testing
