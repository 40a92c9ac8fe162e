/* The verdict, and what is seen of it on the serial line. */
#include "tests/guest/guest.h"

#define CONSOLE_BYTES 8192u

static char console[CONSOLE_BYTES];
static unsigned console_head, console_tail;
static uint64_t next_line_tsc, next_input_tsc;
static bool said_fail;

/* Keeps the first failure: its text is written before its code shows. */
void Fail(uint32_t code, const char* format, ...) {
  static uint32_t taken;
  __atomic_add_fetch(&abi.fail_count, 1, __ATOMIC_RELAXED);
  if (__atomic_exchange_n(&taken, 1, __ATOMIC_ACQ_REL) != 0) return;
  va_list args;
  va_start(args, format);
  FormatV((char*)abi.fail_text, sizeof(abi.fail_text), format, args);
  va_end(args);
  abi.fail_vcpu = This()->number;
  __atomic_store_n(&abi.failure, code, __ATOMIC_RELEASE);
}

void Print(const char* format, ...) {
  char line[256];
  va_list args;
  va_start(args, format);
  const size_t size = FormatV(line, sizeof(line), format, args);
  va_end(args);
  for (size_t i = 0; i < size && console_head - console_tail < CONSOLE_BYTES; ++i)
    console[console_head++ % CONSOLE_BYTES] = line[i];
}

/* One trap a byte, so that the beat goes on between two. */
static bool PutOne(void) {
  if (console_head == console_tail) return false;
  if (TrapCall(TRAP_PUTC, (uint8_t)console[console_tail % CONSOLE_BYTES], 0) != 0) ++console_tail;
  return true;
}

void FlushConsole(void) {
  while (PutOne()) Beat(This());
}

static void PrintStatus(uint64_t now) {
  uint64_t ticks = 0, pages = 0, gap = 0;
  for (unsigned i = 0; i < abi.vcpu_count; ++i) {
    ticks += abi.vcpu[i].ticks;
    pages += abi.vcpu[i].pages_rewritten;
    if (abi.vcpu[i].max_gap_tsc > gap) gap = abi.vcpu[i].max_gap_tsc;
  }
  const uint64_t ms = (now - abi.boot_tsc) / abi.tsc_khz;
  if (abi.failure != CPR_GUEST_OK) {
    Print("cpr-guest: %u s FAIL vcpu %u: %s\r\n", ms / 1000, (uint64_t)abi.fail_vcpu, (const char*)abi.fail_text);
    return;
  }
  Print("cpr-guest: %u s OK beats %u ticks %u pages %u max gap %u us drift %d ns verified %u", ms / 1000,
        abi.vcpu[0].beats, ticks, pages, gap * 1000 / abi.tsc_khz, abi.vcpu[0].clock_drift_ns, abi.round);
  if (options.edu) Print(" edu %u/%u", abi.edu_copies_verified, abi.edu_interrupts);
  if (options.withhold) Print(" withheld %u/%u", abi.withhold_interrupts, abi.withhold_expected);
  Print("\r\n");
}

/* What is typed is counted and answered with a status line. */
static bool Typed(void) {
  if ((TrapCall(TRAP_INB, 0x3fd, 0) & 1) == 0) return false;
  const uint64_t byte = TrapCall(TRAP_INB, 0x3f8, 0);
  ++abi.serial_rx_count;
  char text[2] = {byte >= ' ' && byte < 0x7f ? (char)byte : '?', '\0'};
  Print("cpr-guest: typed '%s'\r\n", text);
  return true;
}

void ConsoleStep(struct percpu* p) {
  const uint64_t now = p->abi->last_tsc;
  if (abi.failure != CPR_GUEST_OK && !said_fail) {
    said_fail = true;
    PrintStatus(now);
  }
  if (PutOne()) return;
  if (now >= next_input_tsc) {
    next_input_tsc = now + TscOfUs(100000);
    if (Typed()) next_line_tsc = now;
  }
  if (now >= next_line_tsc && (!options.quiet || abi.failure != CPR_GUEST_OK || abi.serial_rx_count != 0)) {
    next_line_tsc = options.quiet && abi.failure == CPR_GUEST_OK ? ~0ull : now + TscOfUs(1000000);
    PrintStatus(now);
  }
}

/* A line written from ring 0, where nothing else runs any more. */
static void PutRing0(const char* text) {
  for (; *text != '\0'; ++text) {
    uint8_t status;
    do {
      __asm__ volatile("inb %w1, %0" : "=a"(status) : "d"(0x3fd));
    } while ((status & 0x20) == 0);
    __asm__ volatile("outb %0, %w1" ::"a"(*text), "d"(0x3f8));
  }
}

/* trap.S: an exception that nothing expects. Says so; the boot vCPU goes on saying so and answers the doorbell. */
__attribute__((noreturn)) void Fault(const uint64_t* frame, uint64_t cr2) {
  static const char kFormat[] = "exception %u (error 0x%x) at rip 0x%x cs 0x%x rsp 0x%x cr2 0x%x";
  char text[200];
  Fail(CPR_GUEST_FAIL_EXCEPTION, kFormat, frame[0], frame[1], frame[2], frame[3], frame[5], cr2);
  Format(text, sizeof(text), kFormat, frame[0], frame[1], frame[2], frame[3], frame[5], cr2);
  for (uint64_t next = 0;;) {
    const uint64_t now = Rdtsc();
    abi.verify_result = abi.failure;
    abi.verify_done = abi.verify_request;
    if (now >= next) {
      next = now + (abi.tsc_khz != 0 ? TscOfUs(1000000) : 1ull << 31);
      PutRing0("cpr-guest: FAIL ");
      PutRing0(text);
      PutRing0("\r\n");
    }
  }
}
