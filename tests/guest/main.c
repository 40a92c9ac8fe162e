/* Start of each vCPU, the loop that checks, and the full check that the host or a pause asks for. */
#include "tests/guest/guest.h"

_Static_assert(offsetof(struct percpu, hold_rsp) == PC_HOLD_RSP && offsetof(struct percpu, hold_left) == PC_HOLD_LEFT &&
                   offsetof(struct percpu, hold_bad) == PC_HOLD_BAD &&
                   offsetof(struct percpu, hold_actual) == PC_HOLD_ACTUAL && offsetof(struct percpu, gpr) == PC_GPR,
               "layout.h");
_Static_assert(offsetof(struct cpr_guest_vcpu, beats) == VC_BEATS &&
                   offsetof(struct cpr_guest_vcpu, ticks) == VC_TICKS &&
                   offsetof(struct cpr_guest_vcpu, nmis) == VC_NMIS &&
                   offsetof(struct cpr_guest_vcpu, timer_mode) == VC_TIMER_MODE &&
                   offsetof(struct cpr_guest_vcpu, guest_private) == VC_TIMER_PERIOD && VC_XAPIC == VC_TIMER_PERIOD + 8,
               "layout.h");
_Static_assert(offsetof(struct cpr_guest_abi, vcpu) == 1024, "guest_abi.h");
_Static_assert(offsetof(struct cpr_guest_abi, edu_interrupts) == ABI_EDU_INTERRUPTS &&
                   offsetof(struct cpr_guest_abi, withhold_interrupts) == ABI_WITHHOLD_INTERRUPTS,
               "layout.h");

volatile struct cpr_guest_abi abi __attribute__((section(".abi,\"aw\",@nobits#"), aligned(4096)));
struct options options = {
    .cpus = 1, .hz = 100, .timer = 3, .ws_bytes = 4 << 20, .gap_us = 20000, .clock_tolerance_us = 100};
struct percpu percpus[CPR_GUEST_MAX_VCPUS] __attribute__((aligned(64)));

extern uint64_t start_info_gpa, gdt[], idt[512], HoldBegin[], HoldEnd[];
extern uint8_t tss[], trap_stacks[];

bool has_xsave;
static uint64_t host_request, next_notice_tsc;
static bool host_waits, round_runs;

static void SetGate(unsigned vector, void (*handler)(void)) {
  const uint64_t address = (uint64_t)handler;
  idt[2 * vector] = (address & 0xffff) | SEL_CODE << 16 | 0x8eull << 40 | (address >> 16 & 0xffff) << 48;
  idt[2 * vector + 1] = address >> 32;
}

extern void ExceptionDivide(void), ExceptionDebug(void), IsrNmi(void), ExceptionBreakpoint(void), ExceptionOther(void),
    IsrInvalidOpcode(void), ExceptionNoFpu(void), ExceptionDouble(void), ExceptionTss(void), ExceptionNotPresent(void),
    ExceptionStack(void), IsrProtection(void), ExceptionPage(void), ExceptionMath(void), ExceptionAlignment(void),
    ExceptionSimd(void), IsrTimer(void), IsrIrq4(void), IsrEdu(void), IsrWithheld(void), IsrSpurious(void);

static void InitIdt(void) {
  static void (*const kExceptions[])(void) = {
      ExceptionDivide,  ExceptionDebug, IsrNmi,          ExceptionBreakpoint, ExceptionOther, ExceptionOther,
      IsrInvalidOpcode, ExceptionNoFpu, ExceptionDouble, ExceptionOther,      ExceptionTss,   ExceptionNotPresent,
      ExceptionStack,   IsrProtection,  ExceptionPage,   ExceptionOther,      ExceptionMath,  ExceptionAlignment,
      ExceptionOther,   ExceptionSimd,
  };
  for (unsigned i = 0; i < 20; ++i) SetGate(i, kExceptions[i]);
  SetGate(VECTOR_TIMER, IsrTimer);
  SetGate(VECTOR_IRQ4, IsrIrq4);
  SetGate(VECTOR_EDU, IsrEdu);
  SetGate(VECTOR_WITHHELD, IsrWithheld);
  for (unsigned vector = 0xf8; vector <= VECTOR_SPURIOUS; ++vector) SetGate(vector, IsrSpurious);
}

static void Cpuid0(uint32_t leaf, struct cpuid* id) {
  __asm__ volatile("cpuid" : "=a"(id->eax), "=b"(id->ebx), "=c"(id->ecx), "=d"(id->edx) : "a"(leaf), "c"(0));
}

/* Lets AVX and AVX-512 be used where CPUID offers them. */
static void InitXsave(void) {
  struct cpuid one, seven, d;
  Cpuid0(1, &one);
  if ((one.ecx >> 26 & 1) == 0) return;
  has_xsave = true;
  uint64_t cr4;
  __asm__ volatile("mov %%cr4, %0\n or $0x40000, %0\n mov %0, %%cr4" : "=r"(cr4));
  Cpuid0(7, &seven);
  Cpuid0(0xd, &d);
  const bool avx = (one.ecx >> 28 & 1) != 0 && (d.eax & 6) == 6;
  const bool avx512 = avx && (seven.ebx >> 16 & 1) != 0 && (d.eax & 0xe0) == 0xe0;
  __asm__ volatile("xsetbv" ::"a"(avx512 ? 0xe7 : avx ? 7 : 3), "d"(0), "c"(0));
  abi.features |= (avx ? CPR_GUEST_HAS_AVX : 0) | (avx512 ? CPR_GUEST_HAS_AVX512 : 0);
}

/* Firmware may have left the PIC delivering the PIT's ticks, by vectors that are exceptions here. */
static void MaskPic(void) { __asm__ volatile("outb %0, $0x21\n outb %0, $0xa1" ::"a"((uint8_t)0xff)); }

/* boot.S, in ring 0. */
void Ring0Init(uint64_t number) {
  if (number == 0) {
    memset((void*)&abi, 0, sizeof(abi));
    InitIdt();
    MaskPic();
  }
  uint8_t* task = tss + TSS_BYTES * number;
  const uint64_t stack = (uint64_t)trap_stacks + TRAP_STACK_BYTES * (number + 1), base = (uint64_t)task;
  memcpy(task + 4, &stack, 8); /* RSP0 */
  uint64_t* descriptor = gdt + SEL_TSS / 8 + 2 * number;
  descriptor[0] = 0x67 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
  descriptor[1] = base >> 32;
  InitXsave();
}

/* Everything that this vCPU holds, once. */
static void CheckAll(struct percpu* p) {
  CheckClock(p);
  CheckVectors(p);
  CheckSegments(p);
  p->next_item = 0;
  while (!CheckNextRegister(p)) Beat(p);
  p->next_page = p->number;
  while (!CheckNextPage(p, false)) {
    HoldGeneral(p, 50);
    Beat(p);
  }
  p->next_page = p->number;
}

static bool AllVerified(void) {
  for (unsigned i = 0; i < options.cpus; ++i) {
    if (abi.vcpu[i].verified_round != abi.round) return false;
  }
  return true;
}

static void EndRound(void) {
  round_runs = false;
  if (!host_waits) return;
  host_waits = false;
  abi.verify_result = abi.failure;
  __atomic_store_n(&abi.verify_done, host_request, __ATOMIC_RELEASE);
  if (!options.quiet) Print("cpr-guest: verify %u: %s\r\n", host_request, abi.failure == CPR_GUEST_OK ? "OK" : "FAIL");
}

/* The boot vCPU begins a round of full checks when the host asks, or, once a second at most, after a pause. */
static void LeadRounds(struct percpu* p) {
  static uint32_t notices_seen;
  if (round_runs && AllVerified()) EndRound();
  if (round_runs) return;
  const uint64_t request = __atomic_load_n(&abi.verify_request, __ATOMIC_ACQUIRE), now = p->abi->last_tsc;
  if (request != host_request) {
    host_request = request;
    host_waits = true;
  } else if (abi.gaps_noticed == notices_seen || now < next_notice_tsc) {
    return;
  }
  notices_seen = abi.gaps_noticed;
  next_notice_tsc = now + TscOfUs(1000000);
  round_runs = true;
  __atomic_add_fetch(&abi.round, 1, __ATOMIC_ACQ_REL);
}

static void FollowRounds(struct percpu* p) {
  if (p->noticed) {
    p->noticed = false;
    __atomic_add_fetch(&abi.gaps_noticed, 1, __ATOMIC_RELAXED);
  }
  const uint64_t round = __atomic_load_n(&abi.round, __ATOMIC_ACQUIRE);
  if (round == p->abi->verified_round) return;
  CheckAll(p);
  __atomic_store_n(&p->abi->verified_round, round, __ATOMIC_RELEASE);
}

/* A vCPU that sleeps between ticks cannot miss them by itself: the boot vCPU does. */
static void WatchSleepers(struct percpu* p) {
  static uint64_t begun_run, beats[CPR_GUEST_MAX_VCPUS];
  if (!options.idle_aps || p->run_tsc - begun_run < TscOfUs(1000000)) return;
  begun_run = p->run_tsc;
  for (unsigned i = 1; i < options.cpus; ++i) {
    if (abi.vcpu[i].beats == beats[i]) Fail(CPR_GUEST_FAIL_TIMER, "vCPU %u does not wake from HLT", (uint64_t)i);
    beats[i] = abi.vcpu[i].beats;
  }
}

static void Turn(struct percpu* p) {
  const uint32_t turn = ++p->turn;
  Beat(p);
  HoldGeneral(p, 500);
  Beat(p);
  CheckNextPage(p, true);
  Beat(p);
  if (turn % 4 == 0) CheckVectors(p);
  if (turn % 8 == 0) CheckClock(p);
  if (turn % 16 == 0) CheckSegments(p);
  if (turn % 16 == 8) CheckTouched(p);
  if (turn % 256 == 0) CheckNextRegister(p);
  CheckTimer(p);
  FollowRounds(p);
  if (p->number != 0) {
    if (options.idle_aps && turn % 64 == 32) TrapCall(TRAP_HLT, 0, 0);
    return;
  }
  LeadRounds(p);
  WatchSleepers(p);
  CheckIrq4(p);
  CheckEdu(p);
  CheckWithheld(p);
  ConsoleStep(p);
}

static void InitThis(struct percpu* p, uint64_t number) {
  p->self = p;
  p->number = number;
  p->abi = &abi.vcpu[number];
  p->next_page = p->next_touched = number;
  for (unsigned i = 0; i < 16; ++i) p->gpr[i] = number * 16 + i;
  TrapCall(TRAP_WRMSR, 0xc0000100, (uint64_t)p);
  TrapCall(TRAP_WRMSR, 0xc0000101, (uint64_t)p->abi);
}

static void TakeCommandLine(void) {
  const uint64_t gpa = *(const uint64_t*)(start_info_gpa + 24);
  if (gpa == 0) return;
  const char* line = (const char*)gpa;
  ParseCommandLine(line);
  for (unsigned i = 0; i + 1 < sizeof(abi.command_line) && line[i] != '\0'; ++i) abi.command_line[i] = line[i];
}

static void Boot(struct percpu* p) {
  TakeCommandLine();
  abi.boot_tsc = Rdtsc();
  abi.hold_begin_rip = (uint64_t)HoldBegin;
  abi.hold_end_rip = (uint64_t)HoldEnd;
  abi.vcpu_stride_bytes = sizeof(struct cpr_guest_vcpu);
  abi.vcpus_offset_bytes = offsetof(struct cpr_guest_abi, vcpu);
  abi.vcpu_count = options.cpus;
  EnableApic(p);
  InitClock(p);
  CalibrateTsc();
  abi.version = CPR_GUEST_ABI_VERSION;
  __atomic_store_n(&abi.magic, CPR_GUEST_MAGIC, __ATOMIC_RELEASE);
  Print("cpr-guest: booting, %u vCPUs, TSC %u kHz, '%s'\r\n", (uint64_t)options.cpus, abi.tsc_khz,
        (const char*)abi.command_line);
  InitMemory();
  StartOthers();
}

/* boot.S, in ring 3. */
void UserMain(uint64_t number) {
  struct percpu* p = &percpus[number];
  InitThis(p, number);
  if (number == 0) {
    Boot(p);
  } else {
    EnableApic(p);
    InitClock(p);
  }
  InitTimer(p);
  InitRegisters(p);
  LoadVectors(p);
  p->abi->online = 1;
  if (number == 0) {
    InitIrq4();
    InitEdu(p);
    InitWithheld(p);
    Print("cpr-guest: running, %u MiB rewritten, %u MiB touched, %u registers held%s%s\r\n", abi.ws_pages >> 8,
          abi.touched_bytes >> 20, p->abi->registers_held, abi.features & CPR_GUEST_HAS_AVX ? ", AVX" : "",
          abi.features & CPR_GUEST_HAS_AVX512 ? ", AVX-512" : "");
    FlushConsole();
    __atomic_store_n(&abi.state, CPR_GUEST_RUNNING, __ATOMIC_RELEASE);
  }
  while (abi.state != CPR_GUEST_RUNNING) Beat(p);
  p->abi->last_tsc = Rdtsc();
  for (;;) Turn(p);
}
