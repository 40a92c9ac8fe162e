/* Registers that keep what they were set to: general, segment, debug, control, MSRs and the local APIC's. */
#include "tests/guest/guest.h"

extern void HoldGprs(void);

enum kind { kMsr, kDebug, kControl, kExtended, kApic };
enum action {
  kKeep,   /* must stay as first read */
  kSet,    /* set to value + vCPU number * step */
  kRotate, /* the same, and another value after each check: an old copy of the state shows */
};

struct item {
  enum kind kind;
  uint32_t index;
  const char* name;
  enum action action;
  uint64_t value, step;
};

#define KERNEL_ADDRESS 0xffff900000000000ull
#define UNUSED_ADDRESS 0x0000700000001000ull /* not mapped: its breakpoints never hit */

/* What this host does not have (its access faults, or the value does not stay) is left out. */
static const struct item kItems[] = {
    {kMsr, 0xc0000081, "STAR", kSet, 0x0018000800000000, 0},
    {kMsr, 0xc0000082, "LSTAR", kRotate, KERNEL_ADDRESS, 0x100000000},
    {kMsr, 0xc0000083, "CSTAR", kSet, KERNEL_ADDRESS + 0x3000, 0x100000000},
    {kMsr, 0xc0000084, "SFMASK", kSet, 0x3000, 1},
    {kMsr, 0xc0000102, "KERNEL_GS_BASE", kRotate, KERNEL_ADDRESS, 0x200000000},
    {kMsr, 0xc0000103, "TSC_AUX", kSet, 0x1000, 1},
    {kMsr, 0xc0000100, "FS_BASE", kKeep, 0, 0},
    {kMsr, 0xc0000101, "GS_BASE", kKeep, 0, 0},
    {kMsr, 0xc0000080, "EFER", kKeep, 0, 0},
    {kMsr, 0x174, "SYSENTER_CS", kSet, SEL_CODE, 0},
    {kMsr, 0x175, "SYSENTER_ESP", kSet, 0x90005000, 0x100000}, /* KVM shows 32 bits of these on AMD, */
    {kMsr, 0x176, "SYSENTER_EIP", kSet, 0x90006000, 0x100000}, /* whose SYSENTER has no use for more */
    {kMsr, 0x277, "PAT", kSet, 0x0001050400070406, 0}, /* entries 0 to 3 as after reset */
    {kMsr, 0x200, "MTRR_PHYSBASE0", kSet, 0xc0000000, 0},
    {kMsr, 0x201, "MTRR_PHYSMASK0", kSet, 0xfc0000800, 0},
    {kMsr, 0x250, "MTRR_FIX64K_00000", kSet, 0x0606060606060606, 0},
    {kMsr, 0x2ff, "MTRR_DEF_TYPE", kSet, 0x806, 0},
    {kMsr, 0x1b, "APIC_BASE", kKeep, 0, 0},
    {kMsr, 0x3b, "TSC_ADJUST", kKeep, 0, 0},
    {kMsr, 0x1a0, "MISC_ENABLE", kKeep, 0, 0},
    {kMsr, 0x140, "MISC_FEATURES_ENABLES", kKeep, 0, 0},
    {kMsr, 0x17a, "MCG_STATUS", kKeep, 0, 0},
    {kMsr, 0x48, "SPEC_CTRL", kKeep, 0, 0},
    {kMsr, 0xda0, "XSS", kKeep, 0, 0},
    {kMsr, 0xe1, "UMWAIT_CONTROL", kKeep, 0, 0},
    {kMsr, 0x4b564d01, "KVM_SYSTEM_TIME_NEW", kKeep, 0, 0},
    {kMsr, 0x4b564d05, "KVM_POLL_CONTROL", kSet, 0, 0},
    {kDebug, 0, "DR0", kSet, UNUSED_ADDRESS, 0x100000},
    {kDebug, 1, "DR1", kRotate, UNUSED_ADDRESS + 0x1000000000, 0x100000000},
    {kDebug, 2, "DR2", kSet, UNUSED_ADDRESS + 0x2000, 0x100000},
    {kDebug, 3, "DR3", kSet, UNUSED_ADDRESS + 0x3000, 0x100000},
    {kDebug, 6, "DR6", kSet, 0xffff0ff1, 0},
    {kDebug, 7, "DR7", kSet, 0xdddd04aa, 0}, /* four watchpoints on writes of 4 bytes */
    {kControl, 0, "CR0", kKeep, 0, 0},
    {kControl, 3, "CR3", kKeep, 0, 0},
    {kControl, 4, "CR4", kKeep, 0, 0},
    {kControl, 8, "CR8", kSet, 1, 0},
    {kExtended, 0, "XCR0", kKeep, 0, 0},
    {kApic, 0x020, "APIC ID", kKeep, 0, 0},
    {kApic, 0x0f0, "APIC SVR", kKeep, 0, 0},
    {kApic, 0x320, "APIC LVT timer", kKeep, 0, 0},
    {kApic, 0x340, "APIC LVT performance", kSet, 0x100fd, 0}, /* all masked */
    {kApic, 0x350, "APIC LVT LINT0", kSet, 0x100fc, 0},
    {kApic, 0x360, "APIC LVT LINT1", kSet, 0x10400, 0},
    {kApic, 0x370, "APIC LVT error", kSet, 0x100fb, 0},
    {kApic, 0x380, "APIC timer count", kKeep, 0, 0},
    {kApic, 0x3e0, "APIC timer divider", kKeep, 0, 0},
};
#define ITEM_COUNT (sizeof(kItems) / sizeof(kItems[0]))
_Static_assert(ITEM_COUNT <= ITEM_MAX, "percpu.want is too short");

static uint64_t Xgetbv(void) {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

static uint64_t ReadItem(const struct item* item, bool* fault) {
  *fault = false;
  switch (item->kind) {
    case kMsr:
      return TrapFault(TRAP_RDMSR, item->index, 0, fault);
    case kDebug:
      return TrapCall(TRAP_READ_DR, item->index, 0);
    case kControl:
      return TrapCall(TRAP_READ_CR, item->index, 0);
    case kExtended:
      *fault = !has_xsave;
      return has_xsave ? Xgetbv() : 0;
    default:
      return ApicRead(item->index);
  }
}

static bool WriteItem(const struct item* item, uint64_t value) {
  bool fault = false;
  if (item->kind == kMsr) TrapFault(TRAP_WRMSR, item->index, value, &fault);
  if (item->kind == kDebug) TrapCall(TRAP_WRITE_DR, item->index, value);
  if (item->kind == kControl) TrapCall(TRAP_WRITE_CR8, value, 0);
  if (item->kind == kApic) ApicWrite(item->index, value);
  return !fault;
}

static void InitItem(struct percpu* p, unsigned i) {
  const struct item* item = &kItems[i];
  bool fault;
  const uint64_t value = item->value + item->step * p->number;
  if (item->action != kKeep && !WriteItem(item, value)) return;
  p->want[i] = ReadItem(item, &fault);
  p->held[i] = !fault && (item->action == kKeep || p->want[i] == value);
}

static void ReadSelectors(uint16_t selectors[4]) {
  __asm__ volatile("mov %%ds, %0" : "=r"(selectors[0]));
  __asm__ volatile("mov %%es, %0" : "=r"(selectors[1]));
  __asm__ volatile("mov %%fs, %0" : "=r"(selectors[2]));
  __asm__ volatile("mov %%gs, %0" : "=r"(selectors[3]));
}

void InitRegisters(struct percpu* p) {
  for (unsigned i = 0; i < ITEM_COUNT; ++i) {
    InitItem(p, i);
    Beat(p);
  }
  uint64_t held = 0;
  for (unsigned i = 0; i < ITEM_COUNT; ++i) held += p->held[i];
  p->abi->registers_held = held;
  ReadSelectors(p->selectors);
  TrapCall(TRAP_READ_TABLES, (uint64_t)p->tables, 0);
}

static uint32_t FailureOf(enum kind kind) {
  static const uint32_t kCodes[] = {CPR_GUEST_FAIL_MSR, CPR_GUEST_FAIL_DEBUG, CPR_GUEST_FAIL_CONTROL,
                                    CPR_GUEST_FAIL_CONTROL, CPR_GUEST_FAIL_APIC};
  return kCodes[kind];
}

/* GDTR, IDTR, TR and LDTR, as one item after the last. */
static void CheckTables(struct percpu* p) {
  static const char* const kNames[] = {"GDTR base", "IDTR base", "GDTR or IDTR limit", "TR or LDTR",
                                       "DS, ES, FS or GS"};
  uint64_t now[TABLE_WORDS] = {0};
  TrapCall(TRAP_READ_TABLES, (uint64_t)now, 0);
  for (unsigned i = 0; i < TABLE_WORDS; ++i) {
    if (now[i] != p->tables[i]) Fail(CPR_GUEST_FAIL_SEGMENT, "%s: 0x%x, not 0x%x", kNames[i], now[i], p->tables[i]);
  }
  ++p->abi->checks;
}

static void CheckItem(struct percpu* p, unsigned i) {
  const struct item* item = &kItems[i];
  bool fault;
  const uint64_t value = ReadItem(item, &fault);
  if (fault) Fail(FailureOf(item->kind), "%s: faults, was 0x%x", item->name, p->want[i]);
  if (!fault && value != p->want[i]) Fail(FailureOf(item->kind), "%s: 0x%x, not 0x%x", item->name, value, p->want[i]);
  if (item->action == kRotate || value != p->want[i]) {
    if (item->action == kRotate) p->want[i] = item->value + item->step * p->number + (p->generation & 0xffff) * 4096;
    WriteItem(item, p->want[i]);
  }
  ++p->abi->checks;
}

bool CheckNextRegister(struct percpu* p) {
  while (p->next_item < ITEM_COUNT && !p->held[p->next_item]) ++p->next_item;
  if (p->next_item >= ITEM_COUNT) {
    p->next_item = 0;
    CheckTables(p);
    return true;
  }
  CheckItem(p, p->next_item++);
  return false;
}

void CheckSegments(struct percpu* p) {
  static const char* const kNames[] = {"DS", "ES", "FS", "GS"};
  uint16_t now[4];
  ReadSelectors(now);
  for (unsigned i = 0; i < 4; ++i) {
    if (now[i] != p->selectors[i])
      Fail(CPR_GUEST_FAIL_SEGMENT, "%s: 0x%x, not 0x%x", kNames[i], (uint64_t)now[i], (uint64_t)p->selectors[i]);
  }
  if (This() != p) Fail(CPR_GUEST_FAIL_SEGMENT, "fs base leads to another vCPU's data");
  ++p->abi->checks;
}

void HoldGeneral(struct percpu* p, unsigned beats) {
  static const char* const kNames[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  for (unsigned i = 0; i < 16; ++i) p->gpr[i] = p->gpr[i] * 6364136223846793005ull + i * 2 + 1;
  p->hold_left = beats;
  p->hold_bad = 0;
  HoldGprs();
  ++p->abi->checks;
  if (p->hold_bad == 0) return;
  const unsigned n = (p->hold_bad - 1) & 15;
  Fail(CPR_GUEST_FAIL_GPR, "%s: 0x%x, not 0x%x", kNames[n], p->hold_actual, n == 4 ? p->hold_rsp : p->gpr[n]);
}
