#include "libcpr/kvm/clock.h"

#include <time.h>
#include <x86intrin.h>

#include <algorithm>

#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::kvm {
namespace {

constexpr uint32_t kKernelSample = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;

uint64_t ReadClockNs(clockid_t id) {
  timespec now = {};
  ::clock_gettime(id, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// The kernel's get_kvmclock_base_ns(), as near as user space can see it.
uint64_t HostBaseNs() {
  const uint64_t suspended_ns = ReadClockNs(CLOCK_BOOTTIME) - ReadClockNs(CLOCK_MONOTONIC);
  return ReadClockNs(CLOCK_MONOTONIC_RAW) + suspended_ns;
}

struct HostSample {
  uint64_t tsc, realtime_ns, base_ns;
};

// Readings are of one instant only as far as nothing came between them: the narrowest of a few tries is taken, so that
// being scheduled away does not become an error of the guest's clock. Each try takes less than a microsecond.
constexpr int kTries = 5;
constexpr uint64_t kNarrowTicks = 4'000;  // narrow enough to stop: 1 to 2 us

HostSample ReadHost() { return {__rdtsc(), ReadClockNs(CLOCK_REALTIME), HostBaseNs()}; }

HostSample SampleHost() {
  HostSample best = {};
  uint64_t best_ticks = ~uint64_t{0};
  for (int i = 0; i < kTries && best_ticks > kNarrowTicks; ++i) {
    const HostSample sample = ReadHost();
    const uint64_t ticks = __rdtsc() - sample.tsc;
    if (ticks < best_ticks) {
      best = sample;
      best_ticks = ticks;
    }
  }
  return best;
}

uint64_t Middle(uint64_t a, uint64_t b) { return a + (b - a) / 2; }

uint64_t TicksToNs(uint64_t ticks, uint32_t khz) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(ticks) * 1'000'000 / khz);
}

// Of a difference of times, so it may be negative.
int64_t NsToTicks(int64_t ns, uint32_t khz) {
  return static_cast<int64_t>(static_cast<__int128>(ns) * khz / 1'000'000);
}

// What kvm-clock should read at `now`. Where the kernel derives it from the TSC, so do we: its other base runs away
// from the TSC by parts per million, and a clock set by that could step back.
uint64_t ClockAt(const ClockState& state, const HostSample& now) {
  if (state.master_clock && state.tsc_khz != 0) {
    return state.kvmclock_ns + TicksToNs(now.tsc - state.host_tsc, state.tsc_khz);
  }
  return state.kvmclock_ns + (now.base_ns - state.host_base_ns);
}

// Sets the clock to `clock_ns` as of `realtime_ns`; the kernel adds what has passed since, the ioctl's own time
// included.
absl::Status SetClockAsOf(Vm& vm, uint64_t clock_ns, uint64_t realtime_ns, const HostCaps& caps) {
  kvm_clock_data clock = {};
  clock.clock = clock_ns;
  if ((caps.clock_flags & KVM_CLOCK_REALTIME) != 0) {
    clock.flags = KVM_CLOCK_REALTIME;
    clock.realtime = realtime_ns;
  } else if (const uint64_t now_ns = ReadClockNs(CLOCK_REALTIME); now_ns > realtime_ns) {
    clock.clock += now_ns - realtime_ns;
  }
  return vm.SetClock(clock);
}

ClockState Between(const HostSample& before, const kvm_clock_data& clock, const HostSample& after, uint32_t tsc_khz) {
  ClockState state = {
      .kvmclock_ns = clock.clock,
      .host_tsc = Middle(before.tsc, after.tsc),
      .realtime_ns = Middle(before.realtime_ns, after.realtime_ns),
      .host_base_ns = Middle(before.base_ns, after.base_ns),
      .master_clock = (clock.flags & kKernelSample) == kKernelSample,
      .tsc_khz = tsc_khz,
  };
  if (state.master_clock) {
    state.host_tsc = clock.host_tsc;
    state.realtime_ns = clock.realtime;
  }
  return state;
}

struct Reading {
  ClockState state;
  uint64_t width_ticks = ~uint64_t{0};  // the readings are of one instant but for this
};

absl::StatusOr<Reading> ReadClock(const Vm& vm, uint32_t tsc_khz) {
  Reading best;
  for (int i = 0; i < kTries && best.width_ticks > kNarrowTicks; ++i) {
    const HostSample before = ReadHost();
    CPR_ASSIGN_OR_RETURN(const kvm_clock_data clock, vm.Clock());
    const HostSample after = ReadHost();
    const uint64_t width_ticks = __rdtsc() - before.tsc;
    if (width_ticks < best.width_ticks) best = {Between(before, clock, after, tsc_khz), width_ticks};
  }
  return best;
}

// By how much the VM's clock is off `state` plus what has passed since, as far as it can be told.
absl::StatusOr<uint64_t> ClockErrorNs(const Vm& vm, const ClockState& state) {
  CPR_ASSIGN_OR_RETURN(const Reading now, ReadClock(vm, state.tsc_khz));
  const uint64_t right_ns = ClockAt(state, {now.state.host_tsc, now.state.realtime_ns, now.state.host_base_ns});
  const uint64_t error_ns = std::max(right_ns, now.state.kvmclock_ns) - std::min(right_ns, now.state.kvmclock_ns);
  const bool exact = now.state.master_clock && state.master_clock;
  const uint64_t doubt_ns = exact || state.tsc_khz == 0 ? 0 : TicksToNs(now.width_ticks, state.tsc_khz);
  return error_ns > doubt_ns ? error_ns - doubt_ns : 0;
}

// KVM_SET_CLOCK looks at two clocks of the host's, one after the other. Where the CPU is taken away in between (by a
// hypervisor under this host, by firmware) what it sets is wrong by that time: 168 us were seen. So it is read back,
// and set again.
constexpr uint64_t kRightNs = 2'000;

absl::Status SetClockTo(Vm& vm, const ClockState& state, const HostCaps& caps) {
  for (int i = 0; i < kTries; ++i) {
    const HostSample now = SampleHost();
    CPR_RETURN_IF_ERROR(SetClockAsOf(vm, ClockAt(state, now), now.realtime_ns, caps));
    CPR_ASSIGN_OR_RETURN(const uint64_t error_ns, ClockErrorNs(vm, state));
    if (error_ns <= kRightNs) break;
  }
  return absl::OkStatus();  // at the worst as wrong as one try
}

}  // namespace

absl::StatusOr<ClockState> SaveClock(const Vm& vm, uint32_t tsc_khz) {
  CPR_ASSIGN_OR_RETURN(const Reading reading, ReadClock(vm, tsc_khz));
  return reading.state;
}

absl::StatusOr<uint64_t> RestoreClock(Vm& vm, const ClockState& state, ClockRule rule, const HostCaps& caps) {
  if (rule == ClockRule::kSameKernel) {
    CPR_RETURN_IF_ERROR(SetClockTo(vm, state, caps));
    return 0;
  }
  if (state.tsc_khz == 0)
    return absl::FailedPreconditionError("clock state has no tsc_khz: TSC offsets cannot be computed");
  CPR_RETURN_IF_ERROR(SetClockAsOf(vm, state.kvmclock_ns, state.realtime_ns, caps));
  CPR_ASSIGN_OR_RETURN(const ClockState now, SaveClock(vm, state.tsc_khz));
  // The guest's TSC at kvm-clock 0 stays the same: offset + host_tsc - kvmclock * frequency.
  const int64_t passed_ns = static_cast<int64_t>(now.kvmclock_ns - state.kvmclock_ns);
  return static_cast<uint64_t>(NsToTicks(passed_ns, state.tsc_khz)) + state.host_tsc - now.host_tsc;
}

}  // namespace cpr::kvm
