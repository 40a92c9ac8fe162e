/*
 * From the PVH entry (or an AP's SIPI) to ring 3. The boot vCPU and the others share everything from EnterLong on.
 *
 * All checking runs in ring 3: on a KVM without hardware support guest code in ring 0 is interpreted, some 2 us an
 * instruction, while ring 3 runs natively.
 */
#include "layout.h"

.section .note.pvh, "a", @note
.balign 4
.long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
.asciz "Xen"
.long PvhStart

.text
.code32
.globl PvhStart
PvhStart:
  cld
  mov %ebx, start_info_gpa
  xor %edi, %edi
  jmp EnterLong

/* An AP arrives here from the trampoline, in flat 32-bit mode. */
ApStart32:
  mov 0xfee00020, %edi /* its APIC id is its number; CPUID need not tell it where the host's shows through */
  shr $24, %edi
  cmp %edi, ap_limit
  ja EnterLong
1: hlt
  jmp 1b

/* edi: the vCPU's number */
EnterLong:
  lgdt gdt_pointer
  mov $SEL_DATA, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  mov $page_tables, %eax
  mov %eax, %cr3
  mov $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
  mov %eax, %cr4
  mov $0xc0000080, %ecx
  mov $0x101, %eax /* EFER: LME, SCE */
  xor %edx, %edx
  wrmsr
  mov $0x80000023, %eax /* PG, NE, MP, PE */
  mov %eax, %cr0
  ljmp $SEL_CODE, $Long

.code64
Long:
  mov %edi, %edi
  imul $TRAP_STACK_BYTES, %rdi, %rsp
  lea trap_stacks + TRAP_STACK_BYTES(%rsp), %rsp
  push %rdi
  call Ring0Init /* (vcpu): IDT, TSS, what CPUID offers */
  pop %rdi
  lidt idt_pointer
  mov %edi, %eax
  shl $4, %eax
  add $SEL_TSS, %eax
  ltr %ax
  imul $USER_STACK_BYTES, %rdi, %rdx
  lea user_stacks + USER_STACK_BYTES - 8(%rdx), %rdx
  pushq $SEL_USER_DATA | 3
  pushq %rdx
  pushq $0x202 /* IF */
  pushq $SEL_USER_CODE | 3
  pushq $UserMain /* (vcpu) */
  mov $SEL_USER_DATA | 3, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %fs
  mov %eax, %gs
  iretq

/* Copied to TRAMPOLINE_GPA; SIPI enters it in real mode with CS:IP = TRAMPOLINE_GPA >> 4 : 0. */
.code16
.globl trampoline, trampoline_end
trampoline:
  cli
  mov %cs, %ax
  mov %ax, %ds
  lgdtl trampoline_gdt - trampoline
  mov %cr0, %eax
  or $1, %eax
  and $0x9fffffff, %eax /* caches on, as INIT turned them off */
  mov %eax, %cr0
  ljmpl $SEL_CODE32, $ApFlat - trampoline + TRAMPOLINE_GPA
.code32
ApFlat:
  mov $SEL_DATA, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  mov $ApStart32, %eax
  jmp *%eax
trampoline_gdt:
  .word gdt_end - gdt - 1
  .long gdt
trampoline_end:

.data
.balign 16
.globl gdt
gdt:
  .quad 0
  .quad 0x00af9b000000ffff /* SEL_CODE */
  .quad 0x00cf93000000ffff /* SEL_DATA */
  .quad 0x00cf9b000000ffff /* SEL_CODE32 */
  .quad 0x00cff3000000ffff /* SEL_USER_DATA */
  .quad 0x00affb000000ffff /* SEL_USER_CODE */
  .fill 64 * 2, 8, 0       /* SEL_TSS */
gdt_end:
gdt_pointer:
  .word gdt_end - gdt - 1
  .quad gdt
idt_pointer:
  .word 4095
  .quad idt
.globl start_info_gpa, ap_limit
.balign 8
start_info_gpa: .quad 0
ap_limit: .long 0

/* The first 4 GiB, one to one in 2 MiB pages, open to ring 3; the fourth GiB, where the devices are, uncached. */
.balign 4096
.globl page_tables, page_directories_end
page_tables:
  .quad directory_pointers + 7
  .fill 511, 8, 0
.globl directory_pointers
directory_pointers:
  .quad directories + 7, directories + 0x1007, directories + 0x2007, directories + 0x3007
  .fill 508, 8, 0
directories:
.set i, 0
.rept 1536
  .quad (i << 21) + 0x87
  .set i, i + 1
.endr
.rept 512
  .quad (i << 21) + 0x9f
  .set i, i + 1
.endr

.bss
.balign 4096
.globl idt, tss
idt: .skip 4096
tss: .skip 64 * TSS_BYTES
.globl user_stacks, trap_stacks
.balign 64
user_stacks: .skip 64 * USER_STACK_BYTES
trap_stacks: .skip 64 * TRAP_STACK_BYTES
