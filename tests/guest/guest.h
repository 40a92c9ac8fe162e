/* The guest's own declarations; what the host may know is in guest_abi.h. */
#ifndef TESTS_GUEST_GUEST_H_
#define TESTS_GUEST_GUEST_H_

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/guest/guest_abi.h"
#include "tests/guest/layout.h"

#define PAGE_BYTES 4096ull
#define ITEM_MAX 72
#define TABLE_WORDS 5

/* One vCPU's own data. FS points here. */
struct percpu {
  struct percpu* self;
  uint64_t hold_rsp;
  volatile uint64_t hold_left;
  volatile uint64_t hold_bad;
  volatile uint64_t hold_actual;
  uint64_t unused[3];
  uint64_t gpr[16];
  /* 192 */
  uint32_t number;
  uint32_t turn; /* turns of the main loop */
  volatile struct cpr_guest_vcpu* abi;
  /* registers.c: what the system registers must be */
  uint64_t want[ITEM_MAX];
  bool held[ITEM_MAX];
  unsigned next_item;
  uint16_t selectors[4];
  uint64_t tables[TABLE_WORDS];
  /* vectors.c */
  uint64_t generation;
  uint16_t fcw;
  uint32_t mxcsr;
  /* time.c */
  uint64_t run_tsc; /* time this vCPU has run, pauses left out */
  uint64_t run_at_tick, last_ticks;
  uint64_t clock_tsc, clock_base; /* parameters of kvm-clock as last read */
  uint32_t clock_mul;
  int8_t clock_shift;
  bool has_clock;
  bool noticed; /* a pause, not yet acted on */
  uint64_t round_seen;
  /* memory.c */
  uint64_t next_page, next_touched;
  uint8_t st[8][16] __attribute__((aligned(64)));
  uint8_t fx[512] __attribute__((aligned(64)));
  uint64_t vector[32][8] __attribute__((aligned(64)));
  uint16_t masks[8];
  uint8_t clock_page[64] __attribute__((aligned(64)));
  uint8_t steal_time[64] __attribute__((aligned(64)));
};

struct options {
  unsigned cpus, hz, timer; /* timer: CPR_GUEST_TIMER_x, or 3 = one after the other */
  uint64_t ws_bytes, touch_bytes, gap_us, clock_tolerance_us;
  bool quiet, irq4, idle_aps;
  bool edu, edu_msi;
  uint64_t edu_pin; /* of the IOAPIC, without MSI */
  bool withhold, withhold_msix;
  uint64_t withhold_pin;
};

extern volatile struct cpr_guest_abi abi;
extern struct options options;
extern bool has_xsave; /* CR4.OSXSAVE is on */
extern struct percpu percpus[CPR_GUEST_MAX_VCPUS];

static inline struct percpu* This(void) {
  struct percpu* p;
  __asm__ volatile("mov %%fs:0, %0" : "=r"(p));
  return p;
}
static inline uint64_t Rdtsc(void) {
  uint32_t lo, hi;
  __asm__ volatile("lfence\n rdtsc" : "=a"(lo), "=d"(hi)::"memory");
  return (uint64_t)hi << 32 | lo;
}
static inline uint64_t NextWord(uint64_t x) { return x * 6364136223846793005ull + 1442695040888963407ull; }
static inline void Pause(void) { __asm__ volatile("pause" ::: "memory"); }

/* trap.S: ring 0's services. Fault becomes true where the access is refused. */
static inline uint64_t TrapFault(unsigned number, uint64_t a, uint64_t b, bool* fault) {
  uint64_t result = 0, flag = number;
  __asm__ volatile("call Trap"
                   : "=a"(result), "+d"(flag), "+D"(a), "+S"(b)
                   :
                   : "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
  if (fault != NULL) *fault = flag & 1;
  return result;
}
static inline uint64_t TrapCall(unsigned number, uint64_t a, uint64_t b) { return TrapFault(number, a, b, NULL); }

/* text.c */
size_t FormatV(char* out, size_t size, const char* format, va_list args); /* %s %u %d %x, 64 bits each; %0 nothing */
size_t Format(char* out, size_t size, const char* format, ...);
void* memcpy(void* to, const void* from, size_t size);
void* memset(void* to, int value, size_t size);
int memcmp(const void* a, const void* b, size_t size);
void ParseCommandLine(const char* line);

/* report.c: the verdict and the serial line */
void Fail(uint32_t code, const char* format, ...);
void Print(const char* format, ...); /* boot vCPU only; queued */
void FlushConsole(void);             /* writes all that is queued */
void ConsoleStep(struct percpu* p);  /* a byte, or a status line when one is due */

/* registers.c */
void InitRegisters(struct percpu* p);
bool CheckNextRegister(struct percpu* p); /* one a call; true after the last */
void CheckSegments(struct percpu* p);
void HoldGeneral(struct percpu* p, unsigned beats);
/* vectors.c */
void LoadVectors(struct percpu* p);
void CheckVectors(struct percpu* p);
/* time.c */
void InitClock(struct percpu* p);
void CalibrateTsc(void);
void InitTimer(struct percpu* p);
void Beat(struct percpu* p);
void CheckClock(struct percpu* p);
void CheckTimer(struct percpu* p);
uint64_t TscOfUs(uint64_t us);
/* memory.c */
void InitMemory(void);
bool CheckNextPage(struct percpu* p, bool rewrite); /* true after the last of this vCPU's */
void CheckTouched(struct percpu* p);
/* devices.c: local APIC, IOAPIC, the other vCPUs */
extern bool x2apic;
uint32_t ApicRead(unsigned offset);
void ApicWrite(unsigned offset, uint32_t value);
void EnableApic(struct percpu* p);
void StartOthers(void);
void InitIrq4(void);
void CheckIrq4(struct percpu* p);
bool RouteIoapicLevel(unsigned pin, unsigned vector); /* active low, to vCPU 0; false: there is no such pin */
void MaskIoapic(unsigned pin, bool masked);
/* pci.c: bus 0 */
#define PCI_NONE ~0u
unsigned FindPci(struct percpu* p, uint32_t ids);   /* device << 16 | vendor; a function, or PCI_NONE */
void EnablePciMemory(unsigned function);            /* its BARs have places, given where they had none; no DMA yet */
uint64_t PciBar(unsigned function, unsigned bar);   /* its address */
bool UsePciMsi(unsigned function, unsigned vector); /* to vCPU 0; false: it has no MSI */
bool UsePciIntx(unsigned function);                 /* false: it has no INTx */
void EnablePciDma(unsigned function);
/* MSI-X, on, with table and pending bits at their addresses. All vectors are masked. */
struct msix {
  unsigned function, capability;
  uint64_t table_gpa, pba_gpa;
};
bool UsePciMsix(unsigned function, struct msix* msix);                    /* false: it has no MSI-X */
void RouteMsix(const struct msix* msix, unsigned entry, unsigned vector); /* to vCPU 0; stays masked */
void MaskMsix(const struct msix* msix, unsigned entry, bool masked);
void MaskMsixFunction(const struct msix* msix, bool masked);
bool MsixPending(const struct msix* msix, unsigned entry);
/* edu.c */
void InitEdu(struct percpu* p);
void CheckEdu(struct percpu* p);
/* Makes the device idle, its BAR at edu_gpa, DMA off: its function. PCI_NONE: there is none, which has been said. */
unsigned TakeEdu(struct percpu* p);
bool UseEduIntx(unsigned function, uint64_t pin, unsigned vector); /* false: it cannot, which has been said */
/* withhold.c */
void InitWithheld(struct percpu* p);
void CheckWithheld(struct percpu* p);
/* withhold_edu.c, withhold_msix.c: a device whose interrupt can be raised, and withheld. */
struct withholder {
  bool echoes;                    /* another follows at once, unless the first is still behind a mask */
  unsigned can;                   /* 1 << CPR_GUEST_WITHHOLD_x */
  bool (*init)(struct percpu* p); /* false: it cannot be used, which has been said */
  void (*mask)(bool function, bool on);
  void (*raise)(void);
  void (*acknowledge)(void); /* to the device */
  bool (*pending)(void);     /* not acknowledged, or MSI-X's pending bit */
};
extern const struct withholder withholder_edu, withholder_msix;

struct cpuid {
  uint32_t eax, ebx, ecx, edx;
};
struct cpuid Cpuid(uint32_t leaf, uint32_t subleaf);

#endif /* TESTS_GUEST_GUEST_H_ */
