/*
 * QEMU's teaching device, edu (its docs/specs/edu.rst): page after page is copied into it and back by DMA. Each must
 * come back whole, and each DMA must interrupt once.
 */
#include "tests/guest/guest.h"

#define EDU_IDS 0x11e81234u
#define EDU_IDENTIFICATION 0x00 /* 0xRRrr00ed, a revision in the upper half */
#define EDU_DMA_SOURCE 0x80
#define EDU_DMA_DESTINATION 0x88
#define EDU_DMA_BYTES 0x90
#define EDU_DMA_COMMAND 0x98
#define DMA_START 1u /* set until it is done */
#define DMA_TO_RAM 2u
#define DMA_INTERRUPT 4u
#define EDU_BUFFER 0x40000u /* the device's own page, as its DMA names it */

/* Of this vCPU's running time. A DMA takes 100 ms. */
#define LOOK_US 100000
#define INTERRUPT_LIMIT_US 2000000 /* after the device has shown that it is done */
#define DMA_LIMIT_US 20000000

#define WORDS (PAGE_BYTES / 8)

extern uint64_t edu_gpa;
extern volatile uint64_t edu_odd_status, edu_odd_interrupt; /* IsrEdu */

/* The program's own RAM is below 256 MiB, where the device's 28 address bits lead to. */
static uint64_t out_page[WORDS] __attribute__((aligned(4096))), in_page[WORDS] __attribute__((aligned(4096)));

static enum { kOff, kIdle, kOut, kIn } step;
static uint64_t begun_run, done_run, looked_run; /* running time; done_run 0: it is not known to be done */

static uint32_t Load(struct percpu* p, unsigned offset) {
  Beat(p);
  return TrapCall(TRAP_LOAD32, edu_gpa + offset, 0);
}

static void Store(struct percpu* p, unsigned offset, uint32_t value) {
  TrapCall(TRAP_STORE32, edu_gpa + offset, value);
  Beat(p);
}

/* A failure that ends the copying: what comes after it would tell nothing. */
#define GIVE_UP(...) (step = kOff, Fail(CPR_GUEST_FAIL_DEVICE, __VA_ARGS__))

/* What an earlier owner of the device has left undone ends here. */
static bool AwaitIdle(struct percpu* p) {
  const uint64_t begun = p->run_tsc;
  while ((Load(p, EDU_DMA_COMMAND) & DMA_START) != 0) {
    if (p->run_tsc - begun > TscOfUs(DMA_LIMIT_US)) return false;
  }
  Store(p, EDU_ACKNOWLEDGE, ~0u);
  return true;
}

bool UseEduIntx(unsigned function, uint64_t pin, unsigned vector) {
  if (!UsePciIntx(function)) {
    GIVE_UP("edu: the device has no INTx");
    return false;
  }
  if (pin < 256 && RouteIoapicLevel(pin, vector)) return true;
  GIVE_UP("edu: neither 'msi' nor a number that the IOAPIC has a pin for");
  return false;
}

static bool RouteInterrupt(unsigned function) {
  if (!options.edu_msi) return UseEduIntx(function, options.edu_pin, VECTOR_EDU);
  if (UsePciMsi(function, VECTOR_EDU)) return true;
  GIVE_UP("edu=msi: the device has no MSI capability");
  return false;
}

unsigned TakeEdu(struct percpu* p) {
  const unsigned function = FindPci(p, EDU_IDS);
  if (function == PCI_NONE) {
    GIVE_UP("edu: no device 1234:11e8 on PCI bus 0");
    return PCI_NONE;
  }
  EnablePciMemory(function);
  edu_gpa = PciBar(function, 0);
  const uint64_t identification = Load(p, EDU_IDENTIFICATION);
  if ((identification & 0xffff) != 0xed) {
    GIVE_UP("edu: at 0x%x is 0x%x, not the device's identification", edu_gpa, identification);
  } else if (!AwaitIdle(p)) {
    GIVE_UP("edu: a DMA that was there at boot does not end");
  } else {
    return function;
  }
  return PCI_NONE;
}

void InitEdu(struct percpu* p) {
  if (!options.edu) return;
  const unsigned function = TakeEdu(p);
  if (function == PCI_NONE || !RouteInterrupt(function)) return;
  EnablePciDma(function);
  step = kIdle;
}

/* The copy's words: one that is left of the copy before is wrong everywhere. */
static uint64_t FirstWord(void) { return NextWord(abi.edu_copies_asked * 0x9e3779b97f4a7c15ull); }

static void FillPages(void) {
  uint64_t x = FirstWord();
  for (unsigned i = 0; i < WORDS; ++i, x = NextWord(x)) {
    out_page[i] = x;
    in_page[i] = ~x;
  }
}

static void ComparePages(void) {
  uint64_t x = FirstWord();
  for (unsigned i = 0; i < WORDS; ++i, x = NextWord(x)) {
    const uint64_t found = ((volatile uint64_t*)in_page)[i];
    if (found == x) continue;
    const unsigned shift = __builtin_ctzll(found ^ x) & ~7u;
    GIVE_UP("edu copy %u: byte %u is 0x%x, not 0x%x", abi.edu_copies_asked, i * 8ull + shift / 8, found >> shift & 0xff,
            x >> shift & 0xff);
    return;
  }
  ++abi.edu_copies_verified;
}

static void StartDma(struct percpu* p, uint64_t from, uint64_t to, uint32_t direction) {
  Store(p, EDU_DMA_SOURCE, from);
  Store(p, EDU_DMA_DESTINATION, to);
  Store(p, EDU_DMA_BYTES, PAGE_BYTES);
  ++abi.edu_dmas_asked; /* before its interrupt can come */
  Store(p, EDU_DMA_COMMAND, DMA_START | DMA_INTERRUPT | direction);
  begun_run = looked_run = p->run_tsc;
  done_run = 0;
}

/* The DMA under way has not interrupted: is it overdue? Time in which this vCPU was paused does not count. */
static void CheckOverdue(struct percpu* p) {
  if (p->run_tsc - looked_run < TscOfUs(LOOK_US)) return;
  looked_run = p->run_tsc;
  if (done_run == 0 && (Load(p, EDU_DMA_COMMAND) & DMA_START) == 0) done_run = p->run_tsc;
  if (done_run == 0 && p->run_tsc - begun_run > TscOfUs(DMA_LIMIT_US)) {
    GIVE_UP("edu DMA %u does not end, in %u ms of running", abi.edu_dmas_asked, (p->run_tsc - begun_run) / abi.tsc_khz);
  } else if (done_run != 0 && p->run_tsc - done_run > TscOfUs(INTERRUPT_LIMIT_US)) {
    const uint64_t status = Load(p, EDU_STATUS), interrupts = abi.edu_interrupts;
    if (interrupts == abi.edu_dmas_asked) return;
    GIVE_UP("edu DMA %u is done, but no interrupt in %u ms of running; device's status 0x%x, %u interrupts before",
            abi.edu_dmas_asked, (p->run_tsc - done_run) / abi.tsc_khz, status, interrupts);
  }
}

static void CheckSpurious(void) {
  const uint64_t interrupts = abi.edu_interrupts;
  if (edu_odd_interrupt != 0) {
    GIVE_UP("edu interrupt %u, of %u DMAs: status 0x%x, not 0x100", edu_odd_interrupt, abi.edu_dmas_asked,
            edu_odd_status);
  } else if (interrupts > abi.edu_dmas_asked) {
    GIVE_UP("edu: %u interrupts, of %u DMAs", interrupts, abi.edu_dmas_asked);
  }
}

/* Through with what the last interrupt has ended: the next. */
static void Advance(struct percpu* p) {
  ++p->abi->checks;
  if (step == kIn) {
    ComparePages();
    if (step != kOff) step = kIdle;
  } else if (step == kOut) {
    StartDma(p, EDU_BUFFER, (uint64_t)in_page, DMA_TO_RAM);
    step = kIn;
  } else {
    ++abi.edu_copies_asked;
    FillPages();
    StartDma(p, (uint64_t)out_page, EDU_BUFFER, 0);
    step = kOut;
  }
}

/* Never waits: one step a call. */
void CheckEdu(struct percpu* p) {
  if (step == kOff) return;
  CheckSpurious();
  if (step == kOff) return;
  if (abi.edu_interrupts == abi.edu_dmas_asked) {
    Advance(p);
  } else {
    CheckOverdue(p);
  }
}
