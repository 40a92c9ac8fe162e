/* Local APIC (x2APIC where offered), start of the other vCPUs, and the serial port's interrupt through the IOAPIC. */
#include "tests/guest/guest.h"

#define APIC_GPA 0xfee00000ull
#define IOAPIC_GPA 0xfec00000ull
#define ICR_INIT 0x4500u
#define ICR_STARTUP (0x4600u | TRAMPOLINE_GPA >> 12)

extern char trampoline[], trampoline_end[];
extern uint32_t ap_limit;
extern volatile uint64_t irq4_interrupts;

bool x2apic;

struct cpuid Cpuid(uint32_t leaf, uint32_t subleaf) {
  struct cpuid id = {leaf, subleaf, 0, 0};
  TrapCall(TRAP_CPUID, (uint64_t)&id, 0);
  return id;
}

uint32_t ApicRead(unsigned offset) {
  if (x2apic) return TrapCall(TRAP_RDMSR, 0x800 + (offset >> 4), 0);
  return TrapCall(TRAP_LOAD32, APIC_GPA + offset, 0);
}

void ApicWrite(unsigned offset, uint32_t value) {
  if (x2apic) {
    TrapCall(TRAP_WRMSR, 0x800 + (offset >> 4), value);
  } else {
    TrapCall(TRAP_STORE32, APIC_GPA + offset, value);
  }
}

void EnableApic(struct percpu* p) {
  const struct cpuid id = Cpuid(1, 0);
  const uint64_t base = TrapCall(TRAP_RDMSR, 0x1b, 0) | 0x800;
  bool fault = true;
  if ((id.ecx >> 21 & 1) != 0) TrapFault(TRAP_WRMSR, 0x1b, base | 0x400, &fault);
  if (fault) TrapCall(TRAP_WRMSR, 0x1b, base);
  if (p->number == 0) {
    x2apic = !fault;
    abi.features |= (x2apic ? CPR_GUEST_HAS_X2APIC : 0) | (id.ecx >> 24 & 1 ? CPR_GUEST_HAS_TSC_DEADLINE : 0);
  }
  p->abi->guest_private[1] = !x2apic;
  ApicWrite(0xf0, 0x100 | VECTOR_SPURIOUS);
}

static void SendIpi(unsigned apic_id, uint32_t command) {
  if (x2apic) {
    TrapCall(TRAP_WRMSR, 0x830, (uint64_t)apic_id << 32 | command);
  } else {
    ApicWrite(0x310, apic_id << 24);
    ApicWrite(0x300, command);
  }
}

static bool AllOnline(void) {
  for (unsigned i = 1; i < options.cpus; ++i) {
    if (!abi.vcpu[i].online) return false;
  }
  return true;
}

static bool WaitOnline(uint64_t us) {
  const uint64_t end = Rdtsc() + TscOfUs(us);
  while (!AllOnline() && Rdtsc() < end) Beat(This());
  return AllOnline();
}

void StartOthers(void) {
  if (options.cpus == 1) return;
  memcpy((void*)TRAMPOLINE_GPA, trampoline, trampoline_end - trampoline);
  ap_limit = options.cpus;
  for (unsigned id = 1; id < options.cpus; ++id) SendIpi(id, ICR_INIT);
  WaitOnline(10000);
  for (unsigned id = 1; id < options.cpus; ++id) SendIpi(id, ICR_STARTUP);
  if (WaitOnline(10000000)) return;
  for (unsigned id = 1; id < options.cpus; ++id) {
    if (!abi.vcpu[id].online)
      Fail(CPR_GUEST_FAIL_BOOT, "vCPU %u of cpus=%u did not start", (uint64_t)id, (uint64_t)options.cpus);
  }
}

static void WriteIoapic(uint32_t index, uint32_t value) {
  TrapCall(TRAP_STORE32, IOAPIC_GPA, index);
  TrapCall(TRAP_STORE32, IOAPIC_GPA + 0x10, value);
}

static uint32_t ReadIoapic(uint32_t index) {
  TrapCall(TRAP_STORE32, IOAPIC_GPA, index);
  return TrapCall(TRAP_LOAD32, IOAPIC_GPA + 0x10, 0);
}

bool RouteIoapicLevel(unsigned pin, unsigned vector) {
  if (pin > (ReadIoapic(1) >> 16 & 0xff)) return false;
  WriteIoapic(0x10 + 2 * pin + 1, 0);                      /* to APIC 0 */
  WriteIoapic(0x10 + 2 * pin, 1 << 15 | 1 << 13 | vector); /* level, low, not masked */
  return true;
}

void MaskIoapic(unsigned pin, bool masked) {
  const uint32_t entry = ReadIoapic(0x10 + 2 * pin);
  WriteIoapic(0x10 + 2 * pin, masked ? entry | 1 << 16 : entry & ~(1u << 16));
}

void InitIrq4(void) {
  if (!options.irq4) return;
  WriteIoapic(0x10 + 2 * 4 + 1, 0);       /* to APIC 0 */
  WriteIoapic(0x10 + 2 * 4, VECTOR_IRQ4); /* edge, not masked */
  TrapCall(TRAP_OUTB, 0x3fc, 0x0b);       /* OUT2 lets the interrupt through */
}

/* Twice a second "transmitter empty" is enabled, which interrupts at once since it is empty; then disabled again. */
void CheckIrq4(struct percpu* p) {
  static uint64_t next_tsc, armed_run, armed_count;
  if (!options.irq4) return;
  abi.irq4_count = irq4_interrupts;
  if (armed_run == 0) {
    if (p->abi->last_tsc < next_tsc) return;
    armed_count = irq4_interrupts;
    armed_run = p->run_tsc;
    TrapCall(TRAP_OUTB, 0x3f9, 2);
    return;
  }
  const bool arrived = irq4_interrupts != armed_count;
  if (!arrived && p->run_tsc - armed_run < TscOfUs(200000)) return;
  if (!arrived) Fail(CPR_GUEST_FAIL_IRQ4, "no interrupt of the serial port, after %u", armed_count);
  TrapCall(TRAP_OUTB, 0x3f9, 0);
  armed_run = 0;
  next_tsc = p->abi->last_tsc + TscOfUs(500000);
  ++p->abi->checks;
}
