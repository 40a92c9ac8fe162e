/* edu's INTx by the IOAPIC, as an interrupt that can be withheld. */
#include "tests/guest/guest.h"

#define EDU_RAISE 0x60

extern uint64_t edu_gpa;

static bool Init(struct percpu* p) {
  const unsigned function = TakeEdu(p);
  return function != PCI_NONE && UseEduIntx(function, options.withhold_pin, VECTOR_WITHHELD);
}

static void Mask(bool function, bool masked) {
  (void)function;
  MaskIoapic(options.withhold_pin, masked);
}

static void Raise(void) { TrapCall(TRAP_STORE32, edu_gpa + EDU_RAISE, 1); }

/* The read behind it waits until the line is down. */
static void Acknowledge(void) {
  TrapCall(TRAP_STORE32, edu_gpa + EDU_ACKNOWLEDGE, ~0u);
  TrapCall(TRAP_LOAD32, edu_gpa + EDU_STATUS, 0);
}

static bool Pending(void) { return TrapCall(TRAP_LOAD32, edu_gpa + EDU_STATUS, 0) != 0; }

const struct withholder withholder_edu = {
    .can = 1 << CPR_GUEST_WITHHOLD_MASKED | 1 << CPR_GUEST_WITHHOLD_UNACKNOWLEDGED | 1 << CPR_GUEST_WITHHOLD_NOT_ENDED,
    .init = Init,
    .mask = Mask,
    .raise = Raise,
    .acknowledge = Acknowledge,
    .pending = Pending,
};
