/* Constants that assembly and C of the guest share. main.c asserts that the structs agree. */
#ifndef TESTS_GUEST_LAYOUT_H_
#define TESTS_GUEST_LAYOUT_H_

/* Selectors. The user's data segment stands before its code, and the order is what SYSRET would want. */
#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_CODE32 0x18
#define SEL_USER_DATA 0x20
#define SEL_USER_CODE 0x28
#define SEL_TSS 0x30 /* + 16 * vCPU */

#define VECTOR_WITHHELD 0x38 /* of a lower class than the others, which go on while it is in service */
#define VECTOR_TIMER 0x40
#define VECTOR_IRQ4 0x44
#define VECTOR_EDU 0x48
#define VECTOR_SPURIOUS 0xff

#define USER_STACK_BYTES 4096
#define TRAP_STACK_BYTES 2048
#define TSS_BYTES 128

#define TRAMPOLINE_GPA 0x1000

/* struct percpu, which FS points to */
#define PC_HOLD_RSP 8
#define PC_HOLD_LEFT 16
#define PC_HOLD_BAD 24
#define PC_HOLD_ACTUAL 32
#define PC_GPR 64

/* struct cpr_guest_vcpu, which GS points to */
#define VC_BEATS 0
#define VC_TICKS 32
#define VC_NMIS 96
#define VC_TIMER_MODE 108
#define VC_TIMER_PERIOD 112 /* guest_private[0]: TSC ticks (deadline) or bus cycles (one-shot) */
#define VC_XAPIC 120        /* guest_private[1]: no x2APIC */

/* struct cpr_guest_abi */
#define ABI_EDU_INTERRUPTS 440
#define ABI_WITHHOLD_INTERRUPTS 472

/* The edu device's registers that its interrupt needs, and the status that the end of a DMA shows */
#define EDU_STATUS 0x24
#define EDU_ACKNOWLEDGE 0x64
#define EDU_DMA_DONE 0x100

/* What ring 0 does for ring 3, in rax of trap(); arguments rdi, rsi */
#define TRAP_RDMSR 0
#define TRAP_WRMSR 1
#define TRAP_OUTB 2
#define TRAP_INB 3
#define TRAP_PUTC 4
#define TRAP_READ_DR 5
#define TRAP_WRITE_DR 6
#define TRAP_READ_CR 7
#define TRAP_READ_TABLES 8
#define TRAP_HLT 9
#define TRAP_CPUID 10
#define TRAP_INVALIDATE 11
#define TRAP_WRITE_CR8 12
#define TRAP_OUTL 13
#define TRAP_INL 14
#define TRAP_LOAD32 15
#define TRAP_STORE32 16
#define TRAP_COUNT 17

#endif /* TESTS_GUEST_LAYOUT_H_ */
