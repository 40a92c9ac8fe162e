// What saving and restoring KVM state costs: each is a part of the guest's pause. Needs a usable /dev/kvm; without it
// every benchmark is skipped with the reason.

#include <memory>
#include <optional>
#include <string>

#include "benchmark/benchmark.h"
#include "google/protobuf/arena.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/msrs.h"
#include "libcpr/kvm/parallel.h"
#include "libcpr/kvm/system.h"
#include "libcpr/kvm/vcpu_state.h"
#include "libcpr/kvm/vcpu_state_proto.h"
#include "libcpr/kvm/vm_state.h"
#include "libcpr/kvm/vm_state_proto.h"
#include "tests/kvm/test_vm.h"

namespace cpr::kvm {
namespace {

using ::cpr::testing::kRamBytes;
using ::cpr::testing::MakeTestVm;
using ::cpr::testing::TestVm;

// Two VMs on the same RAM, the first saved.
struct Bench {
  System system;
  Mapping ram;
  TestVm from, to;
  VcpuSavePlan plan;
  VcpuState vcpu;
  VmState vm;
};

absl::StatusOr<std::unique_ptr<Bench>> MakeBench(IrqchipKind irqchip) {
  CPR_ASSIGN_OR_RETURN(System system, System::Create());
  CPR_ASSIGN_OR_RETURN(Mapping ram, Mapping::CreateAnonymous(kRamBytes));
  CPR_ASSIGN_OR_RETURN(TestVm from, MakeTestVm(system, ram, irqchip));
  CPR_ASSIGN_OR_RETURN(TestVm to, MakeTestVm(system, ram, irqchip));
  CPR_ASSIGN_OR_RETURN(VcpuSavePlan plan, PlanVcpuSave(system, from.vcpu()));
  CPR_ASSIGN_OR_RETURN(VcpuState vcpu, SaveVcpu(from.vcpu(), plan));
  CPR_ASSIGN_OR_RETURN(VmState vm, SaveVm(from.vm, from.config, from.routes, 0));
  return std::make_unique<Bench>(Bench{std::move(system), std::move(ram), std::move(from), std::move(to),
                                       std::move(plan), std::move(vcpu), std::move(vm)});
}

// Measures `work` on a Bench with `irqchip`, or says why not.
template <typename Work>
void Measure(benchmark::State& state, IrqchipKind irqchip, Work work) {
  const auto bench = MakeBench(irqchip);
  if (!bench.ok()) {
    state.SkipWithError(bench.status().ToString().c_str());
    return;
  }
  for (auto _ : state) {
    if (const absl::Status status = work(**bench); !status.ok()) {
      state.SkipWithError(status.ToString().c_str());
      return;
    }
  }
}

void BM_VcpuSave(benchmark::State& state) {
  Measure(state, IrqchipKind::kSplit, [](Bench& b) { return SaveVcpu(b.from.vcpu(), b.plan).status(); });
}
BENCHMARK(BM_VcpuSave)->Unit(benchmark::kMicrosecond);

void BM_VcpuRestore(benchmark::State& state) {
  Measure(state, IrqchipKind::kSplit, [](Bench& b) { return RestoreVcpu(b.to.vcpu(), b.vcpu, b.system.caps()); });
}
BENCHMARK(BM_VcpuRestore)->Unit(benchmark::kMicrosecond);

// One ioctl each, to see where the time goes.
template <typename Read>
void MeasureRead(benchmark::State& state, Read read) {
  Measure(state, IrqchipKind::kSplit, [read](Bench& b) { return read(b.from.vcpu(), b).status(); });
}
#define CPR_BENCH_READ(name, expression)                                                                   \
  void BM_Read##name(benchmark::State& state) {                                                            \
    MeasureRead(state, []([[maybe_unused]] Vcpu& vcpu, [[maybe_unused]] Bench& b) { return expression; }); \
  }                                                                                                        \
  BENCHMARK(BM_Read##name)->Unit(benchmark::kMicrosecond)
CPR_BENCH_READ(MpState, vcpu.MpState());
CPR_BENCH_READ(Regs, vcpu.Regs());
CPR_BENCH_READ(Sregs2, vcpu.Sregs2());
CPR_BENCH_READ(Xsave2, vcpu.Xsave2(b.plan.caps.xsave_size_bytes));
CPR_BENCH_READ(Xcrs, vcpu.Xcrs());
CPR_BENCH_READ(DebugRegs, vcpu.DebugRegs());
CPR_BENCH_READ(TscOffset, vcpu.TscOffset());
CPR_BENCH_READ(Lapic, vcpu.Lapic());
CPR_BENCH_READ(Msrs, vcpu.Msrs(b.plan.msrs));
CPR_BENCH_READ(VcpuEvents, vcpu.VcpuEvents());

template <typename Write>
void MeasureWrite(benchmark::State& state, Write write) {
  Measure(state, IrqchipKind::kSplit, [write](Bench& b) { return write(b.to.vcpu(), b); });
}
#define CPR_BENCH_WRITE(name, expression)                                                                   \
  void BM_Write##name(benchmark::State& state) {                                                            \
    MeasureWrite(state, []([[maybe_unused]] Vcpu& vcpu, [[maybe_unused]] Bench& b) { return expression; }); \
  }                                                                                                         \
  BENCHMARK(BM_Write##name)->Unit(benchmark::kMicrosecond)
CPR_BENCH_WRITE(MpState, vcpu.SetMpState(b.vcpu.mp_state));
CPR_BENCH_WRITE(Regs, vcpu.SetRegs(b.vcpu.regs));
CPR_BENCH_WRITE(Sregs2, vcpu.SetSregs2(b.vcpu.sregs));
CPR_BENCH_WRITE(Xsave2, vcpu.SetXsave(b.vcpu.xsave));
CPR_BENCH_WRITE(Xcrs, vcpu.SetXcrs(b.vcpu.xcrs));
CPR_BENCH_WRITE(DebugRegs, vcpu.SetDebugRegs(b.vcpu.debugregs));
CPR_BENCH_WRITE(TscOffset, vcpu.SetTscOffset(b.vcpu.tsc_offset));
CPR_BENCH_WRITE(Lapic, vcpu.SetLapic(*b.vcpu.lapic));
CPR_BENCH_WRITE(Msrs, RestoreMsrs(vcpu, b.vcpu.msrs));
CPR_BENCH_WRITE(VcpuEvents, vcpu.SetVcpuEvents(b.vcpu.events));

void BM_VmSaveSplit(benchmark::State& state) {
  Measure(state, IrqchipKind::kSplit,
          [](Bench& b) { return SaveVm(b.from.vm, b.from.config, b.from.routes, 0).status(); });
}
BENCHMARK(BM_VmSaveSplit)->Unit(benchmark::kMicrosecond);

void BM_VmSaveFull(benchmark::State& state) {
  Measure(state, IrqchipKind::kFull,
          [](Bench& b) { return SaveVm(b.from.vm, b.from.config, b.from.routes, 0).status(); });
}
BENCHMARK(BM_VmSaveFull)->Unit(benchmark::kMicrosecond);

void BM_VmRestoreFull(benchmark::State& state) {
  Measure(state, IrqchipKind::kFull, [](Bench& b) { return RestoreVm(b.to.vm, b.vm, b.to.config, b.to.routes); });
}
BENCHMARK(BM_VmRestoreFull)->Unit(benchmark::kMicrosecond);

void BM_ClockRestore(benchmark::State& state) {
  Measure(state, IrqchipKind::kSplit,
          [](Bench& b) { return RestoreClock(b.to.vm, b.vm.clock, ClockRule::kSameKernel, b.system.caps()).status(); });
}
BENCHMARK(BM_ClockRestore)->Unit(benchmark::kMicrosecond);

// The routes of 64 MSI vectors, set as one batch.
void BM_GsiRouting64(benchmark::State& state) {
  Measure(state, IrqchipKind::kSplit, [](Bench& b) {
    GsiRoutes routes;
    for (uint32_t gsi = 0; gsi < 64; ++gsi) routes.SetMsi(gsi, 0xfee00000, 0x30 + gsi);
    return routes.Commit(b.to.vm);
  });
}
BENCHMARK(BM_GsiRouting64)->Unit(benchmark::kMicrosecond);

void BM_VcpuEncode(benchmark::State& state) {
  std::string bytes;
  Measure(state, IrqchipKind::kSplit, [&bytes](Bench& b) {
    google::protobuf::Arena arena;
    auto* proto = google::protobuf::Arena::CreateMessage<v1::VcpuX86State>(&arena);
    ToProto(b.vcpu, proto);
    bytes.clear();
    return proto->AppendToString(&bytes) ? absl::OkStatus() : absl::InternalError("AppendToString");
  });
  state.counters["bytes"] = static_cast<double>(bytes.size());
}
BENCHMARK(BM_VcpuEncode)->Unit(benchmark::kMicrosecond);

void BM_VcpuDecode(benchmark::State& state) {
  std::string bytes;
  Measure(state, IrqchipKind::kSplit, [&bytes](Bench& b) {
    google::protobuf::Arena arena;
    auto* proto = google::protobuf::Arena::CreateMessage<v1::VcpuX86State>(&arena);
    if (bytes.empty()) {
      ToProto(b.vcpu, proto);
      bytes = proto->SerializeAsString();
    }
    if (!proto->ParseFromString(bytes)) return absl::InternalError("ParseFromString");
    return FromProto(*proto).status();
  });
}
BENCHMARK(BM_VcpuDecode)->Unit(benchmark::kMicrosecond);

void BM_VmEncodeFull(benchmark::State& state) {
  Measure(state, IrqchipKind::kFull, [](Bench& b) {
    v1::VmX86State proto;
    CPR_RETURN_IF_ERROR(ToProto(b.vm, &proto));
    return proto.SerializeAsString().empty() ? absl::InternalError("SerializeAsString") : absl::OkStatus();
  });
}
BENCHMARK(BM_VmEncodeFull)->Unit(benchmark::kMicrosecond);

// Before the pause: the new side's VM of one vCPU, and its end.
void BM_VmBuildSplit(benchmark::State& state) {
  Measure(state, IrqchipKind::kSplit,
          [](Bench& b) { return MakeTestVm(b.system, b.ram, IrqchipKind::kSplit).status(); });
}
BENCHMARK(BM_VmBuildSplit)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace cpr::kvm

BENCHMARK_MAIN();
