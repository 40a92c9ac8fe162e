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
    state.devices = {{.group = 7, .interrupts = 65}, {.group = 9, .interrupts = 0}};
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
            {"a mapping without size", [](Proto& p) { p.mutable_mappings(0)->clear_size_bytes(); }},
            {"an iommufd without address space", [](Proto& p) { p.mutable_iommufds(0)->clear_ioas_id(); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(VfioState, SectionConformance, VfioStateTraits);

}  // namespace
}  // namespace cpr::testing
