// MSI-X vectors of a PCI function on a real KVM: by irqfd and GSI route into a LAPIC, and over a handover.

#include "vmm/pci/msix.h"

#include <sched.h>
#include <unistd.h>

#include <memory>
#include <optional>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/kvm/test_vm.h"
#include "vmm/machine/interrupt_routes.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::kRamBytes;
using ::cpr::testing::MakeTestVm;
using ::cpr::testing::TestVm;

constexpr uint8_t kVector = 0x61;

class MsixKvmTest : public ::testing::TestWithParam<kvm::IrqchipKind> {
 protected:
  // A VM, its routes, and a function's vectors.
  struct Rig {
    std::optional<TestVm> vm;
    std::unique_ptr<InterruptRoutes> routes;
    std::unique_ptr<Msix> msix;
  };
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    CPR_ASSERT_OK_AND_ASSIGN(kvm::System system, kvm::System::Create());
    system_.emplace(std::move(system));
    CPR_ASSERT_OK_AND_ASSIGN(ram_, Mapping::CreateAnonymous(kRamBytes));
  }
  void Make(Rig& rig) {
    CPR_ASSERT_OK_AND_ASSIGN(TestVm vm, MakeTestVm(*system_, ram_, GetParam()));
    rig.vm.emplace(std::move(vm));
    CPR_ASSERT_OK_AND_ASSIGN(kvm_lapic_state lapic, rig.vm->vcpu().Lapic());
    lapic.regs[0xf0] = '\xff', lapic.regs[0xf1] = 1;  // spurious vector register: software enable
    ASSERT_THAT(rig.vm->vcpu().SetLapic(lapic), IsOk());
    rig.routes = std::make_unique<InterruptRoutes>(
        &rig.vm->vm, GetParam() == kvm::IrqchipKind::kFull ? kvm::GsiRoutes::OfFullIrqchip() : kvm::GsiRoutes());
    CPR_ASSERT_OK_AND_ASSIGN(rig.msix, Msix::Create(2, rig.routes.get()));
  }
  static void Unmask(Msix& msix) {
    msix.WriteTable(16, 8, 0xfee00000);
    msix.WriteTable(24, 8, kVector);
  }
  static bool Arrived(Rig& rig) {
    constexpr unsigned kIrr = 0x200;
    // An irqfd may inject from a work queue.
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (absl::Now() < end) {
      if ((rig.vm->vcpu().Lapic()->regs[kIrr + 0x10 * (kVector / 32) + kVector % 32 / 8] & 1 << kVector % 8) != 0) {
        return true;
      }
      ::sched_yield();
    }
    return false;
  }

  std::optional<kvm::System> system_;
  Mapping ram_;
};

TEST_P(MsixKvmTest, SignalReachesTheLapic) {
  Rig rig;
  Make(rig);
  rig.msix->SetControl(true, false);
  Unmask(*rig.msix);
  rig.msix->Signal(1);
  EXPECT_TRUE(Arrived(rig));
}

TEST_P(MsixKvmTest, PendingSignalReachesTheLapicOfTheNextVm) {
  Rig from, to;
  Make(from);
  Make(to);
  from.msix->SetControl(true, true);
  Unmask(*from.msix);
  from.msix->Signal(1);
  ASSERT_THAT(to.msix->Restore(from.msix->Save(), true, true), IsOk());
  EXPECT_EQ(to.msix->ReadPba(0, 8), 2u);
  to.msix->SetControl(true, false);
  EXPECT_TRUE(Arrived(to));
  EXPECT_EQ(to.routes->gsi_routes().entries().back().gsi, 25u);
}

TEST_P(MsixKvmTest, SharedSignalOfTheGapReachesTheLapicOfTheNextVm) {
  Rig from, to;
  Make(from);
  Make(to);
  from.msix->SetControl(true, false);
  CPR_ASSERT_OK_AND_ASSIGN(const int shared, from.msix->Share(1));
  Unmask(*from.msix);
  ASSERT_THAT(from.msix->DetachShared(), IsOk());
  from.msix->Signal(1);
  ASSERT_THAT(to.msix->AdoptShared(1, UniqueFd(::dup(shared))), IsOk());
  ASSERT_THAT(to.msix->Restore(from.msix->Save(), true, false), IsOk());
  ASSERT_THAT(to.msix->AttachShared(), IsOk());
  EXPECT_TRUE(Arrived(to));
}

INSTANTIATE_TEST_SUITE_P(Irqchips, MsixKvmTest, ::testing::Values(kvm::IrqchipKind::kSplit, kvm::IrqchipKind::kFull),
                         [](const auto& info) { return info.param == kvm::IrqchipKind::kSplit ? "Split" : "Full"; });

}  // namespace
}  // namespace cpr
