/* The beat, the TSC, kvm-clock and the local APIC's timer. */
#include "tests/guest/guest.h"

#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define CLOCK_STABLE 1u /* pvclock flags */
#define CLOCK_GUEST_STOPPED 2u

struct pvclock { /* Linux: asm/pvclock-abi.h */
  uint32_t version, pad;
  uint64_t tsc_timestamp, system_time;
  uint32_t tsc_to_system_mul;
  int8_t tsc_shift;
  uint8_t flags, pad2[2];
};

static uint64_t max_tsc, max_clock_ns; /* seen by any vCPU */

uint64_t TscOfUs(uint64_t us) { return us * abi.tsc_khz / 1000; }

/* Between vCPUs: what another has published lies in the past. */
static void CheckAgainstOthers(struct percpu* p) {
  uint64_t seen = __atomic_load_n(&max_tsc, __ATOMIC_ACQUIRE);
  const uint64_t now = Rdtsc();
  if (now < seen) Fail(CPR_GUEST_FAIL_TSC, "TSC of vCPU %u is %u behind another's", (uint64_t)p->number, seen - now);
  while (seen < now && !__atomic_compare_exchange_n(&max_tsc, &seen, now, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
  }
}

void Beat(struct percpu* p) {
  volatile struct cpr_guest_vcpu* v = p->abi;
  const uint64_t now = Rdtsc(), last = v->last_tsc;
  v->last_tsc = now;
  ++v->beats;
  if (last == 0) return;
  if (now < last) {
    Fail(CPR_GUEST_FAIL_TSC, "TSC went back by %u, from 0x%x", last - now, last);
    return;
  }
  const uint64_t gap = now - last, most = abi.tsc_khz; /* a longer one is a pause, not running time */
  p->run_tsc += gap < most ? gap : most;
  if (abi.state != CPR_GUEST_RUNNING) return;
  if (gap > v->max_gap_tsc) v->max_gap_tsc = gap;
  if (gap > v->recent_max_gap_tsc) v->recent_max_gap_tsc = gap;
  if (gap > TscOfUs(options.gap_us)) p->noticed = true;
}

static uint64_t Scale(uint64_t ticks, uint32_t mul, int8_t shift) {
  ticks = shift < 0 ? ticks >> -shift : ticks << shift;
  return (uint64_t)((unsigned __int128)ticks * mul >> 32);
}

/* kvm-clock's parameters in `c`, the TSC in `tsc`: the time in ns. */
static uint64_t ReadClock(struct percpu* p, struct pvclock* c, uint64_t* tsc) {
  const volatile struct pvclock* page = (const volatile struct pvclock*)p->clock_page;
  do {
    c->version = __atomic_load_n(&page->version, __ATOMIC_ACQUIRE);
    c->tsc_timestamp = page->tsc_timestamp;
    c->system_time = page->system_time;
    c->tsc_to_system_mul = page->tsc_to_system_mul;
    c->tsc_shift = page->tsc_shift;
    c->flags = page->flags;
    *tsc = Rdtsc();
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
  } while ((c->version & 1) != 0 || c->version != page->version);
  return c->system_time + Scale(*tsc - c->tsc_timestamp, c->tsc_to_system_mul, c->tsc_shift);
}

/* The parameters changed: the new ones must tell the time that the old ones tell. */
static void CheckStep(struct percpu* p, uint64_t now_ns, uint64_t tsc) {
  volatile struct cpr_guest_vcpu* v = p->abi;
  const int64_t step = now_ns - (p->clock_base + Scale(tsc - p->clock_tsc, p->clock_mul, p->clock_shift));
  const uint64_t size = step < 0 ? -step : step, limit = options.clock_tolerance_us * 1000;
  v->clock_drift_ns += step;
  if (size > v->max_clock_jump_ns) v->max_clock_jump_ns = size;
  if (size > limit)
    Fail(CPR_GUEST_FAIL_CLOCK_JUMP, "kvm-clock stepped by %d ns against the TSC, tolerance is %u", step, limit);
  const uint64_t drift = v->clock_drift_ns < 0 ? -v->clock_drift_ns : v->clock_drift_ns;
  const uint64_t elapsed_ns = (tsc - abi.boot_tsc) / abi.tsc_khz * 1000000;
  if (drift > 4 * limit + elapsed_ns / 5000) /* 200 ppm: what a host's own clock may be steered by */
    Fail(CPR_GUEST_FAIL_CLOCK_JUMP, "kvm-clock is %d ns off the TSC since boot", v->clock_drift_ns);
}

static void KeepParameters(struct percpu* p, const struct pvclock* c) {
  p->clock_tsc = c->tsc_timestamp;
  p->clock_base = c->system_time;
  p->clock_mul = c->tsc_to_system_mul;
  p->clock_shift = c->tsc_shift;
}

static void CheckClockAgainstOthers(struct percpu* p, uint64_t seen, uint64_t now_ns) {
  if (now_ns < seen)
    Fail(CPR_GUEST_FAIL_CLOCK_BACK, "kvm-clock of vCPU %u is %u ns behind another's", (uint64_t)p->number,
         seen - now_ns);
  while (seen < now_ns &&
         !__atomic_compare_exchange_n(&max_clock_ns, &seen, now_ns, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
  }
}

void CheckClock(struct percpu* p) {
  CheckAgainstOthers(p);
  ++p->abi->checks;
  if (!p->has_clock) return;
  struct pvclock c;
  uint64_t tsc;
  const uint64_t seen = __atomic_load_n(&max_clock_ns, __ATOMIC_ACQUIRE);
  const uint64_t now_ns = ReadClock(p, &c, &tsc), last = p->abi->last_kvmclock_ns;
  if (c.tsc_timestamp != p->clock_tsc || c.system_time != p->clock_base || c.tsc_to_system_mul != p->clock_mul) {
    CheckStep(p, now_ns, tsc);
    KeepParameters(p, &c);
  }
  if (now_ns < last) Fail(CPR_GUEST_FAIL_CLOCK_BACK, "kvm-clock went back by %u ns, from %u", last - now_ns, last);
  p->abi->last_kvmclock_ns = now_ns;
  if ((c.flags & CLOCK_STABLE) != 0) CheckClockAgainstOthers(p, seen, now_ns);
  if ((c.flags & CLOCK_GUEST_STOPPED) != 0) {
    ((volatile struct pvclock*)p->clock_page)->flags &= ~CLOCK_GUEST_STOPPED;
    ++p->abi->clock_stopped_seen;
    p->noticed = true;
  }
}

/* KVM's CPUID base, 0 without KVM. */
static uint32_t KvmLeaf(void) {
  for (uint32_t leaf = 0x40000000; leaf < 0x40001000; leaf += 0x100) {
    const struct cpuid id = Cpuid(leaf, 0);
    if (id.ebx == 0x4b4d564b && id.ecx == 0x564b4d56 && id.edx == 0x4d) return leaf;
  }
  return 0;
}

void InitClock(struct percpu* p) {
  const uint32_t leaf = KvmLeaf();
  if (leaf == 0 || (Cpuid(leaf + 1, 0).eax >> 3 & 1) == 0) return;
  bool fault;
  TrapFault(TRAP_WRMSR, MSR_KVM_SYSTEM_TIME_NEW, (uint64_t)p->clock_page | 1, &fault);
  if (fault) return;
  struct pvclock c;
  uint64_t tsc;
  p->abi->last_kvmclock_ns = ReadClock(p, &c, &tsc);
  KeepParameters(p, &c);
  p->has_clock = true;
  if (p->number != 0) return;
  abi.features |= CPR_GUEST_HAS_KVMCLOCK | (c.flags & CLOCK_STABLE ? CPR_GUEST_HAS_KVMCLOCK_STABLE : 0);
}

/* By kvm-clock; without it by the local APIC's timer, which KVM runs at 1 GHz. */
void CalibrateTsc(void) {
  const struct percpu* p = This();
  if (p->has_clock) {
    const uint64_t khz = (1000000ull << 32) / p->clock_mul;
    abi.tsc_khz = p->clock_shift < 0 ? khz << -p->clock_shift : khz >> p->clock_shift;
    return;
  }
  ApicWrite(0x3e0, 0xb);
  ApicWrite(0x320, 1 << 16 | VECTOR_TIMER);
  ApicWrite(0x380, ~0u);
  const uint64_t begin = Rdtsc();
  while (Rdtsc() - begin < 50000000) Pause();
  const uint64_t ticks = Rdtsc() - begin, ns = ~0u - ApicRead(0x390);
  ApicWrite(0x380, 0);
  abi.tsc_khz = ticks * 1000000 / ns;
}

static uint32_t ChooseTimer(const struct percpu* p) {
  static const uint32_t kMix[] = {CPR_GUEST_TIMER_DEADLINE, CPR_GUEST_TIMER_PERIODIC, CPR_GUEST_TIMER_ONESHOT};
  const uint32_t mode = options.timer < 3 ? options.timer : kMix[p->number % 3];
  const bool offered = (abi.features & CPR_GUEST_HAS_TSC_DEADLINE) != 0;
  return mode == CPR_GUEST_TIMER_DEADLINE && !offered ? CPR_GUEST_TIMER_PERIODIC : mode;
}

void InitTimer(struct percpu* p) {
  static const uint32_t kLvt[] = {1 << 17, 1 << 18, 0};
  volatile struct cpr_guest_vcpu* v = p->abi;
  const uint32_t bus_cycles = 1000000000 / options.hz;
  v->timer_mode = ChooseTimer(p);
  v->guest_private[0] = bus_cycles;
  ApicWrite(0x3e0, 0xb); /* undivided */
  ApicWrite(0x320, kLvt[v->timer_mode] | VECTOR_TIMER);
  if (v->timer_mode != CPR_GUEST_TIMER_DEADLINE) {
    ApicWrite(0x380, bus_cycles);
    return;
  }
  __asm__ volatile("mfence" ::: "memory");
  v->guest_private[0] = abi.tsc_khz * 1000 / options.hz;
  TrapCall(TRAP_WRMSR, 0x6e0, Rdtsc() + v->guest_private[0]);
}

/* A tick is overdue when this vCPU has run for long without one; time in which it was paused does not count. */
void CheckTimer(struct percpu* p) {
  const uint64_t ticks = p->abi->ticks;
  if (ticks != p->last_ticks) {
    p->last_ticks = ticks;
    p->run_at_tick = p->run_tsc;
    return;
  }
  const uint64_t run = p->run_tsc - p->run_at_tick;
  if (run < TscOfUs(100000 + 5000000 / options.hz)) return;
  static const char* const kModes[] = {"periodic", "TSC-deadline", "one-shot"};
  Fail(CPR_GUEST_FAIL_TIMER, "no tick of the %s timer in %u ms of running, after %u ticks", kModes[p->abi->timer_mode],
       run / abi.tsc_khz, ticks);
  p->run_at_tick = p->run_tsc;
}
