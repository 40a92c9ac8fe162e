/* Ring 0: interrupts, exceptions, and what ring 3 asks for. Few instructions, since they may be interpreted. */
#include "layout.h"

.text
.code64

/*
 * uint64_t Trap(a, b, number): ring 3 calls ring 0 by this one UD2, the only way in that works wherever guest kernel
 * code is interpreted. Result in rax; rdx is 1 when the access faulted.
 */
.globl Trap, trap_instruction
Trap:
  mov %edx, %eax
  xor %edx, %edx
trap_instruction:
  ud2
  ret

.globl IsrInvalidOpcode
IsrInvalidOpcode:
  cmpq $trap_instruction, (%rsp)
  jne ExceptionInvalidOpcode
  addq $2, (%rsp)
  jmp *trap_table(, %rax, 8)

.globl fault_rdmsr, fault_wrmsr
TrapRdmsr:
  mov %edi, %ecx
fault_rdmsr:
  rdmsr
  shl $32, %rdx
  or %rdx, %rax
  xor %edx, %edx
  iretq
TrapWrmsr:
  mov %edi, %ecx
  mov %esi, %eax
  mov %rsi, %rdx
  shr $32, %rdx
fault_wrmsr:
  wrmsr
  xor %edx, %edx
  iretq
/* A general protection fault at either ends the trap with rdx = 1. */
.globl IsrProtection
IsrProtection:
  cmpq $fault_rdmsr, 8(%rsp)
  je 1f
  cmpq $fault_wrmsr, 8(%rsp)
  jne ExceptionProtection
1: mov 32(%rsp), %rsp /* back to the trap's own frame: the CPU had aligned the stack before this one */
  mov $1, %edx
  iretq

TrapOutb:
  mov %edi, %edx
  mov %esi, %eax
  out %al, %dx
  iretq
TrapInb:
  mov %edi, %edx
  xor %eax, %eax
  in %dx, %al
  iretq
TrapOutl:
  mov %edi, %edx
  mov %esi, %eax
  out %eax, %dx
  iretq
TrapInl:
  mov %edi, %edx
  in %dx, %eax
  iretq
/*
 * Leaves the guest for KVM and comes back. Under QEMU's SVM emulation (docs/testbed.md) an access to a device ends the VM
 * where it is the first exit after an exception was injected, as every UD2 is.
 */
.macro exit_once
  push %rbx
  xor %eax, %eax
  cpuid
  pop %rbx
.endm
/* A device's register. */
TrapLoad32:
  exit_once
  mov (%rdi), %eax
  xor %edx, %edx
  iretq
TrapStore32:
  exit_once
  mov %esi, (%rdi)
  xor %edx, %edx
  iretq
/* Writes byte dil to COM1 if it takes one: 1, else 0. */
TrapPutc:
  mov $0x3fd, %edx
  in %dx, %al
  and $0x20, %eax
  jz 1f
  mov $0x3f8, %edx
  mov %edi, %eax
  out %al, %dx
  mov $1, %eax
1: iretq

TrapReadDr:
  jmp *read_dr_table(, %rdi, 8)
.irp n, 0, 1, 2, 3, 6, 7
ReadDr\n:
  mov %db\n, %rax
  iretq
WriteDr\n:
  mov %rsi, %db\n
  iretq
.endr
TrapWriteDr:
  jmp *write_dr_table(, %rdi, 8)

TrapReadCr:
  jmp *read_cr_table(, %rdi, 8)
.irp n, 0, 3, 4, 8
ReadCr\n:
  mov %cr\n, %rax
  iretq
.endr
ReadNone:
  xor %eax, %eax
  iretq
/* With interrupts let in before: QEMU's SVM emulation (11.1) aborts if one waits for its window at this moment. */
TrapWriteCr8:
  sti
  nop
  mov %rdi, %cr8
  iretq
/* rdi: 5 words out: GDT base, IDT base, their limits, TR and LDTR, the data selectors as ring 0 sees them */
TrapReadTables:
  sub $16, %rsp
  sgdt (%rsp)
  mov (%rsp), %ax
  mov %ax, 16(%rdi)
  mov 2(%rsp), %rax
  mov %rax, (%rdi)
  sidt (%rsp)
  mov (%rsp), %ax
  mov %ax, 18(%rdi)
  mov 2(%rsp), %rax
  mov %rax, 8(%rdi)
  str %eax
  mov %ax, 24(%rdi)
  sldt %eax
  mov %ax, 26(%rdi)
  mov %ds, 32(%rdi)
  mov %es, 34(%rdi)
  mov %fs, 36(%rdi)
  mov %gs, 38(%rdi)
  add $16, %rsp
  iretq
TrapHlt:
  sti
  hlt
  iretq
/* rdi: {leaf, subleaf} in, {eax, ebx, ecx, edx} out */
TrapCpuid:
  push %rbx
  mov (%rdi), %eax
  mov 4(%rdi), %ecx
  cpuid
  mov %eax, (%rdi)
  mov %ebx, 4(%rdi)
  mov %ecx, 8(%rdi)
  mov %edx, 12(%rdi)
  pop %rbx
  iretq
TrapInvalidate:
  mov %cr3, %rax
  mov %rax, %cr3
  iretq

/* The LAPIC's timer: count, arm the next where the mode needs it, end the interrupt. */
.globl IsrTimer
IsrTimer:
  push %rax
  push %rcx
  push %rdx
  incq %gs:VC_TICKS
  cmpb $1, %gs:VC_TIMER_MODE
  jb 2f
  ja 1f
  rdtsc
  add %gs:VC_TIMER_PERIOD, %eax
  adc $0, %edx
  mov $0x6e0, %ecx
  wrmsr
  jmp 2f
1: cmpb $0, %gs:VC_XAPIC
  jne 3f
  mov %gs:VC_TIMER_PERIOD, %eax
  xor %edx, %edx
  mov $0x838, %ecx
  wrmsr
  jmp 2f
3: mov %gs:VC_TIMER_PERIOD, %eax
  mov $0xfee00000, %ecx
  mov %eax, 0x380(%rcx)
2: call EndInterrupt
  pop %rdx
  pop %rcx
  pop %rax
  iretq

EndInterrupt:
  xor %eax, %eax
  cmpb $0, %gs:VC_XAPIC
  jne 1f
  xor %edx, %edx
  mov $0x80b, %ecx
  wrmsr
  ret
1: mov $0xfee000b0, %ecx
  mov %eax, (%rcx)
  ret

/* The serial port: reading IIR ends "transmitter empty"; what was typed is left for the main loop. */
.globl IsrIrq4
IsrIrq4:
  push %rax
  push %rcx
  push %rdx
  mov $0x3fa, %edx
  in %dx, %al
  incq irq4_interrupts
  call EndInterrupt
  pop %rdx
  pop %rcx
  pop %rax
  iretq

/*
 * The edu device: acknowledged before the interrupt's end, or its line would interrupt again. The read behind it waits
 * until the line is down. An interrupt that no DMA's end explains is remembered.
 */
.globl IsrEdu
IsrEdu:
  push %rax
  push %rcx
  push %rdx
  mov edu_gpa, %rcx
  mov EDU_STATUS(%rcx), %eax
  mov %eax, EDU_ACKNOWLEDGE(%rcx)
  mov EDU_STATUS(%rcx), %edx
  incq abi + ABI_EDU_INTERRUPTS
  cmp $EDU_DMA_DONE, %eax
  je 1f
  mov %rax, edu_odd_status
  mov abi + ABI_EDU_INTERRUPTS, %rax
  mov %rax, edu_odd_interrupt
1: call EndInterrupt
  pop %rdx
  pop %rcx
  pop %rax
  iretq

/* Acknowledged and ended by the main loop (withhold.c). */
.globl IsrWithheld
IsrWithheld:
  incq abi + ABI_WITHHOLD_INTERRUPTS
  iretq

.globl IsrNmi
IsrNmi:
  incq %gs:VC_NMIS
  iretq

.globl IsrSpurious
IsrSpurious:
  iretq

/* Everything else ends in Fault(frame): vector, error code, rip, cs, rflags, rsp, ss. */
.macro exception name, vector, has_error=0
.globl \name
\name:
  .if \has_error == 0
  pushq $0
  .endif
  pushq $\vector
  mov %rsp, %rdi
  mov %cr2, %rsi
  and $~15, %rsp
  call Fault
.endm
exception ExceptionDivide, 0
exception ExceptionDebug, 1
exception ExceptionBreakpoint, 3
exception ExceptionInvalidOpcode, 6
exception ExceptionNoFpu, 7
exception ExceptionDouble, 8, 1
exception ExceptionTss, 10, 1
exception ExceptionNotPresent, 11, 1
exception ExceptionStack, 12, 1
exception ExceptionProtection, 13, 1
exception ExceptionPage, 14, 1
exception ExceptionMath, 16
exception ExceptionAlignment, 17, 1
exception ExceptionSimd, 19
exception ExceptionOther, 255

.data
.balign 8
.globl irq4_interrupts
irq4_interrupts: .quad 0
.globl edu_gpa, edu_odd_status, edu_odd_interrupt
edu_gpa: .quad 0
edu_odd_status: .quad 0
edu_odd_interrupt: .quad 0 /* its number, from 1 */
trap_table:
  .quad TrapRdmsr, TrapWrmsr, TrapOutb, TrapInb, TrapPutc, TrapReadDr, TrapWriteDr, TrapReadCr, TrapReadTables
  .quad TrapHlt, TrapCpuid, TrapInvalidate, TrapWriteCr8
  .quad TrapOutl, TrapInl, TrapLoad32, TrapStore32
read_dr_table: .quad ReadDr0, ReadDr1, ReadDr2, ReadDr3, ReadNone, ReadNone, ReadDr6, ReadDr7
write_dr_table: .quad WriteDr0, WriteDr1, WriteDr2, WriteDr3, ReadNone, ReadNone, WriteDr6, WriteDr7
read_cr_table: .quad ReadCr0, ReadNone, ReadNone, ReadCr3, ReadCr4, ReadNone, ReadNone, ReadNone, ReadCr8
