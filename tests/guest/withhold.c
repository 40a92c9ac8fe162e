/*
 * An interrupt that is raised and withheld for as long as the host wants: by a mask, or in its handler, which has not
 * ended. Let go it must come once, or not again; and the next one must come, too.
 */
#include "tests/guest/guest.h"

/* Of this vCPU's running time. */
#define LOOK_US 10000
#define SETTLE_US 20000 /* for what should not come */
#define INTERRUPT_LIMIT_US 2000000
#define APIC_EOI 0xb0

/*
 * One step a letter, see Step; in upper case for a device that echoes alone, whose interrupts have to gather behind a
 * mask to be one.
 */
#define RAISE "MrSU"
#define PLAIN "x" RAISE "caes"
static const char* const kWithhold[] = {[CPR_GUEST_WITHHOLD_MASKED] = "mrrs",
                                        [CPR_GUEST_WITHHOLD_FUNCTION] = "mrrs",
                                        [CPR_GUEST_WITHHOLD_UNACKNOWLEDGED] = "x" RAISE "cs",
                                        [CPR_GUEST_WITHHOLD_NOT_ENDED] = "x" RAISE "cas"};
static const char* const kLetGo[] = {[CPR_GUEST_LET_GO] = PLAIN,
                                     [CPR_GUEST_WITHHOLD_MASKED] = "xucaes" PLAIN,
                                     [CPR_GUEST_WITHHOLD_FUNCTION] = "xucaes" PLAIN,
                                     [CPR_GUEST_WITHHOLD_UNACKNOWLEDGED] = "aes" PLAIN,
                                     [CPR_GUEST_WITHHOLD_NOT_ENDED] = "es" PLAIN};

static const struct withholder* source; /* NULL: off */
static uint64_t request;                /* the last one taken */
static unsigned what;                   /* is withheld, or about to be or not to be */
static bool masked;
static const char* steps = ""; /* of the request under way, those that are left */
static uint64_t step_run, looked_run;

#define GIVE_UP(...) (source = NULL, Fail(CPR_GUEST_FAIL_DEVICE, __VA_ARGS__))

void InitWithheld(struct percpu* p) {
  if (!options.withhold) return;
  source = options.withhold_msix ? &withholder_msix : &withholder_edu;
  if (!source->init(p)) source = NULL;
}

static void TakeRequest(uint64_t next) {
  const unsigned wanted = next & ((1u << CPR_GUEST_WITHHOLD_NUMBER_SHIFT) - 1);
  request = next;
  if (wanted == CPR_GUEST_LET_GO) {
    steps = kLetGo[what];
  } else if (what == CPR_GUEST_LET_GO && wanted <= CPR_GUEST_WITHHOLD_NOT_ENDED && (source->can >> wanted & 1) != 0) {
    what = wanted;
    steps = kWithhold[what];
  } else {
    GIVE_UP("withhold: request %u cannot be, %u is withheld", (uint64_t)wanted, (uint64_t)what);
  }
}

/* What the device, or its pending bit, must say where nothing is under way. */
static void CheckPending(void) {
  const bool wanted = masked || what == CPR_GUEST_WITHHOLD_UNACKNOWLEDGED;
  if (source->pending() == wanted) return;
  GIVE_UP("withhold: interrupt %u is %spending, and should%s be; %u withheld", abi.withhold_expected,
          wanted ? "not " : "", wanted ? "" : " not", (uint64_t)what);
}

static void CheckOverdue(uint64_t ran) {
  if (ran <= TscOfUs(INTERRUPT_LIMIT_US)) return;
  const char* says = source->pending() ? "pending" : "not pending";
  GIVE_UP("withhold: no interrupt %u in %u ms of running; %s, %u withheld before", abi.withhold_expected,
          ran / abi.tsc_khz, says, (uint64_t)what);
}

static void Mask(bool on) {
  source->mask(what == CPR_GUEST_WITHHOLD_FUNCTION, on);
  masked = on;
}

/* The end of what was withheld: the device's word for it counts from here on. */
static void EndInterrupt(void) {
  what = CPR_GUEST_LET_GO;
  ApicWrite(APIC_EOI, 0);
}

/* For `ran` now. True: what should not come has had its time, and what is pending is right. */
static bool Settled(uint64_t ran) {
  if (ran < TscOfUs(SETTLE_US)) return false;
  CheckPending();
  return true;
}

static bool Came(uint64_t ran) {
  if (abi.withhold_interrupts == abi.withhold_expected) return true;
  CheckOverdue(ran);
  return false;
}

/* True: the step is done, or is none for this device. `ran`: how long it has been under way. */
static bool Step(char step, uint64_t ran) {
  const bool upper = step >= 'A' && step <= 'Z';
  if (upper && !source->echoes) return true;
  switch (upper ? step - 'A' + 'a' : step) {
    case 'm': /* mask */
      Mask(true);
      return true;
    case 'u':
      Mask(false);
      return true;
    case 'x': /* one is expected */
      ++abi.withhold_expected;
      return true;
    case 'r':
      source->raise();
      return true;
    case 'a':
      source->acknowledge();
      return true;
    case 'e':
      EndInterrupt();
      return true;
    case 's':
      return Settled(ran);
    default: /* 'c': it comes */
      return Came(ran);
  }
}

static void Advance(struct percpu* p) {
  if (!Step(*steps, p->run_tsc - step_run)) return;
  step_run = looked_run = p->run_tsc;
  if (*++steps != '\0' || source == NULL) return;
  __atomic_store_n(&abi.withhold_done, request, __ATOMIC_RELEASE);
}

static void Look(struct percpu* p) {
  if (p->run_tsc - looked_run < TscOfUs(LOOK_US)) return;
  looked_run = p->run_tsc;
  ++p->abi->checks;
  CheckPending();
}

/* Never waits: one step a call. */
void CheckWithheld(struct percpu* p) {
  if (source == NULL) return;
  const uint64_t interrupts = abi.withhold_interrupts, expected = abi.withhold_expected;
  const uint64_t next = __atomic_load_n(&abi.withhold_request, __ATOMIC_ACQUIRE);
  if (interrupts > expected) {
    GIVE_UP("withhold: interrupt %u, of %u; %s, %u withheld", interrupts, expected, masked ? "masked" : "not masked",
            (uint64_t)what);
  } else if (*steps != '\0') {
    Advance(p);
  } else if (next >> CPR_GUEST_WITHHOLD_NUMBER_SHIFT != request >> CPR_GUEST_WITHHOLD_NUMBER_SHIFT) {
    step_run = p->run_tsc;
    CheckPending(); /* what has been withheld, for the last time */
    if (source != NULL) TakeRequest(next);
  } else {
    Look(p);
  }
}
