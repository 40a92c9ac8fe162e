#ifndef TESTS_GUEST_GUEST_ABI_H_
#define TESTS_GUEST_GUEST_ABI_H_

/*
 * What the self-checking guest shows to the host in its RAM, at CPR_GUEST_ABI_GPA. C and C++. The guest writes, the
 * host reads; the fields marked "host" are the host's to write. Every field is naturally aligned, so that a plain
 * 8-byte load from a shared mapping sees a whole value. The words are valid once `magic` is CPR_GUEST_MAGIC.
 */

#include <stdint.h>

#define CPR_GUEST_ABI_GPA 0x200000ull
#define CPR_GUEST_MAGIC 0x5453455547525043ull /* "CPRGUEST" */
#define CPR_GUEST_ABI_VERSION 1u
#define CPR_GUEST_MAX_VCPUS 64u

/* cpr_guest_abi.state */
#define CPR_GUEST_BOOTING 0u
#define CPR_GUEST_RUNNING 1u /* every vCPU is in its checking loop */

/* cpr_guest_abi.failure: what was found wrong first; 0 while all is well. `fail_text` says it in words. */
#define CPR_GUEST_OK 0u
#define CPR_GUEST_FAIL_GPR 1u          /* a general register changed */
#define CPR_GUEST_FAIL_VECTOR 2u       /* x87, SSE, AVX or AVX-512 state changed */
#define CPR_GUEST_FAIL_SEGMENT 3u      /* a selector, fs or gs base, GDTR, IDTR, TR or LDTR changed */
#define CPR_GUEST_FAIL_DEBUG 4u        /* a debug register changed */
#define CPR_GUEST_FAIL_MSR 5u          /* an MSR changed */
#define CPR_GUEST_FAIL_CONTROL 6u      /* CR0, CR3, CR4, CR8 or XCR0 changed */
#define CPR_GUEST_FAIL_APIC 7u         /* a local APIC register changed */
#define CPR_GUEST_FAIL_TIMER 8u        /* the local APIC's timer stopped ticking */
#define CPR_GUEST_FAIL_TSC 9u          /* the TSC went back, on one vCPU or between two */
#define CPR_GUEST_FAIL_CLOCK_BACK 10u  /* kvm-clock went back, on one vCPU or between two */
#define CPR_GUEST_FAIL_CLOCK_JUMP 11u  /* kvm-clock lost or gained time against the TSC */
#define CPR_GUEST_FAIL_WORKING_SET 12u /* a page of the working set is not what was written */
#define CPR_GUEST_FAIL_TOUCHED 13u     /* a page touched at boot is not what was written */
#define CPR_GUEST_FAIL_IRQ4 14u        /* the serial port's interrupt does not arrive */
#define CPR_GUEST_FAIL_EXCEPTION 15u   /* the vCPU took an exception: RIP, RSP or a descriptor was lost */
#define CPR_GUEST_FAIL_BOOT 16u        /* vCPUs or RAM that the command line asks for are missing */
#define CPR_GUEST_FAIL_DEVICE 17u      /* edu, e1000e: missing, wrong data, an interrupt too few or too many */

/* cpr_guest_abi.features: what is held and checked because CPUID offers it */
#define CPR_GUEST_HAS_AVX (1u << 0)
#define CPR_GUEST_HAS_AVX512 (1u << 1)
#define CPR_GUEST_HAS_KVMCLOCK (1u << 2)
#define CPR_GUEST_HAS_KVMCLOCK_STABLE (1u << 3) /* comparable between vCPUs */
#define CPR_GUEST_HAS_TSC_DEADLINE (1u << 4)
#define CPR_GUEST_HAS_X2APIC (1u << 5)

/*
 * What `withhold=` is asked to do by cpr_guest_abi.withhold_request: one of these, and a number above it that no
 * request had before. An interrupt is raised by the device and withheld, until the request to let it go.
 */
#define CPR_GUEST_LET_GO 0u
#define CPR_GUEST_WITHHOLD_MASKED 1u         /* in the IOAPIC, or in the MSI-X table */
#define CPR_GUEST_WITHHOLD_FUNCTION 2u       /* by the function mask of MSI-X */
#define CPR_GUEST_WITHHOLD_UNACKNOWLEDGED 3u /* it is being handled: no acknowledgement to the device, nor EOI, yet */
#define CPR_GUEST_WITHHOLD_NOT_ENDED 4u      /* the same, acknowledged; no EOI yet */
#define CPR_GUEST_WITHHOLD_NUMBER_SHIFT 8u

/* cpr_guest_vcpu.timer_mode */
#define CPR_GUEST_TIMER_PERIODIC 0u
#define CPR_GUEST_TIMER_DEADLINE 1u
#define CPR_GUEST_TIMER_ONESHOT 2u

struct cpr_guest_vcpu {        /* 256 bytes */
  uint64_t beats;              /* rises all the time; a pause is a time in which it does not */
  uint64_t last_tsc;           /* TSC at the last turn of the main loop */
  uint64_t max_gap_tsc;        /* longest time between two turns, since `state` became RUNNING */
  uint64_t recent_max_gap_tsc; /* the same since the host last wrote 0 here (host) */
  uint64_t ticks;              /* interrupts of the local APIC's timer */
  uint64_t checks;             /* checks made, of any kind */
  uint64_t last_kvmclock_ns;
  uint64_t max_clock_jump_ns;  /* largest step of kvm-clock against the TSC, either way */
  int64_t clock_drift_ns;      /* sum of those steps */
  uint64_t pages_rewritten;    /* pages of the working set checked and written anew */
  uint64_t clock_stopped_seen; /* times that KVM_KVMCLOCK_CTRL told this vCPU that it had been stopped */
  uint64_t verified_round;     /* last round of full checks that this vCPU ended */
  uint64_t nmis;
  uint32_t online;
  uint32_t timer_mode;
  uint64_t guest_private[8];
  uint64_t registers_held; /* control, debug, segment, APIC registers and MSRs that this host lets the guest hold */
  uint64_t reserved[9];
};

struct cpr_guest_abi {
  uint64_t magic;
  uint32_t version;
  uint32_t vcpu_stride_bytes;  /* sizeof(struct cpr_guest_vcpu) */
  uint32_t vcpus_offset_bytes; /* of vcpu[0] */
  uint32_t vcpu_count;
  uint32_t state;
  uint32_t features;
  uint64_t tsc_khz;
  /* Verdict. */
  uint32_t failure; /* the first */
  uint32_t fail_vcpu;
  uint64_t fail_count; /* all */
  char fail_text[256];
  /*
   * Doorbell: the host writes a new number to verify_request; each vCPU checks everything it holds, once, completely;
   * then the guest writes `failure` to verify_result and the number to verify_done.
   */
  uint64_t verify_request; /* host */
  uint64_t verify_done;
  uint32_t verify_result;
  uint32_t gaps_noticed; /* pauses that the guest noticed by itself, and verified after */
  uint64_t round;        /* full checks asked for, by the host or by the guest itself */
  /* What is where. */
  uint64_t ws_gpa;
  uint64_t ws_pages;
  uint64_t touched_gpa; /* first page that `touch=` wrote */
  uint64_t touched_bytes;
  uint64_t hold_begin_rip; /* between these two the general registers hold known values */
  uint64_t hold_end_rip;
  uint64_t irq4_count;
  uint64_t serial_rx_count;
  uint64_t boot_tsc;
  /* `edu=`: what was copied through the device. A copy is two DMAs, a DMA one interrupt. */
  uint64_t edu_copies_asked;
  uint64_t edu_copies_verified;
  uint64_t edu_dmas_asked;
  uint64_t edu_interrupts;
  /* `withhold=`: when withhold_done is withhold_request, it is as asked, and all that are expected have come. */
  uint64_t withhold_request; /* host */
  uint64_t withhold_done;
  uint64_t withhold_expected;
  uint64_t withhold_interrupts;
  uint64_t reserved[52];
  /* At byte 896. */
  char command_line[128];
  struct cpr_guest_vcpu vcpu[CPR_GUEST_MAX_VCPUS];
};

#ifdef __cplusplus
static_assert(sizeof(struct cpr_guest_vcpu) == 256, "stride");
#else
_Static_assert(sizeof(struct cpr_guest_vcpu) == 256, "stride");
#endif

#endif /* TESTS_GUEST_GUEST_ABI_H_ */
