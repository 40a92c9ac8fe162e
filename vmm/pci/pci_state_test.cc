#include "vmm/pci/pci_state.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/section_conformance.h"
#include "vmm/pci/fake_pci.h"

namespace cpr::testing {
namespace {

struct ToyOnBus {
  RecordingRouter router;
  Bus ports, mmio;
  ToyFunction toy{&router};
  std::unique_ptr<PciHost> host;
};

struct PciFunctionTraits {
  using Object = ToyOnBus;
  using Proto = v1::PciFunctionState;

  static std::unique_ptr<ToyOnBus> Create() {
    auto object = std::make_unique<ToyOnBus>();
    object->host = *PciHost::Create(PciWindowsAbove(0), &object->ports, &object->mmio);
    (void)object->host->Add(3, &object->toy).value();
    return object;
  }
  static void Modify(ToyOnBus& object) {
    object.toy.WriteConfig(kPciBar0, 4, 0xc8000000);
    object.toy.WriteConfig(kPciCommand, 2, 0x407);
    object.toy.WriteConfig(object.toy.vendor_capability + 8 + 2, 2, 0xc000);
    for (unsigned i = 0; i < ToyFunction::kVectors; ++i) {
      object.toy.msix()->WriteTable(16 * i, 8, 0x1fee00000 + 0x1000 * i);
      object.toy.msix()->WriteTable(16 * i + 8, 8, 0x30 + i);
      object.toy.msix()->Signal(i);
    }
  }
  static Proto Save(const ToyOnBus& object) { return PciFunctionStateToProto(object.toy.Save()); }
  static absl::Status Restore(ToyOnBus& object, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const PciFunctionState state, PciFunctionStateFromProto(proto));
    return object.host->RestoreFunction(3, state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"another device", [](Proto& p) { (*p.mutable_config())[0] ^= 1; }},
            {"a BAR that is not aligned", [](Proto& p) { (*p.mutable_config())[kPciBar0 + 1] ^= 1; }},
            {"another kind of BAR", [](Proto& p) { (*p.mutable_config())[kPciBar0] ^= 4; }},
            {"a reserved command bit", [](Proto& p) { (*p.mutable_config())[kPciCommand] ^= 0x80; }},
            {"another capability", [](Proto& p) { (*p.mutable_config())[0x40] ^= 1; }},
            {"a byte too few", [](Proto& p) { p.mutable_config()->pop_back(); }},
            {"extended configuration space", [](Proto& p) { p.mutable_config()->resize(4096); }},
            {"a vector too few", [](Proto& p) { p.mutable_vectors()->RemoveLast(); }},
            {"a vector too few, counted",
             [](Proto& p) {
               p.mutable_vectors()->RemoveLast();
               p.set_vector_count(2);
             }},
            {"a vector too many", [](Proto& p) { *p.add_vectors() = p.vectors(0); }},
            {"a vector without mask", [](Proto& p) { p.mutable_vectors(0)->clear_masked(); }},
            {"an address that is not aligned", [](Proto& p) { p.mutable_vectors(1)->set_address(0xfee00001); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(PciFunction, SectionConformance, PciFunctionTraits);

struct PciHostTraits {
  using Object = ToyOnBus;
  using Proto = v1::PciHostState;

  static std::unique_ptr<ToyOnBus> Create() { return PciFunctionTraits::Create(); }
  static void Modify(ToyOnBus& object) { object.host->WritePort(0, 4, 0x80001834); }
  static Proto Save(const ToyOnBus& object) { return PciHostStateToProto(object.host->Save()); }
  static absl::Status Restore(ToyOnBus& object, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const PciHostState state, PciHostStateFromProto(proto));
    return object.host->Restore(state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"low bits", [](Proto& p) { p.set_address(0x80000001); }},
            {"reserved bits", [](Proto& p) { p.set_address(0x81000000); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(PciHost, SectionConformance, PciHostTraits);

}  // namespace
}  // namespace cpr::testing
