/* Registers that hold known values while time, and handovers, pass. FS is struct percpu, GS struct cpr_guest_vcpu. */
#include "layout.h"

.text
.code64

.macro for_each_gpr m
  \m 0, rax
  \m 1, rcx
  \m 2, rdx
  \m 3, rbx
  \m 5, rbp
  \m 6, rsi
  \m 7, rdi
  \m 8, r8
  \m 9, r9
  \m 10, r10
  \m 11, r11
  \m 12, r12
  \m 13, r13
  \m 14, r14
  \m 15, r15
.endm
.macro load_gpr n, reg
  mov %fs:PC_GPR + 8 * \n, %\reg
.endm
.macro check_gpr n, reg
  cmp %fs:PC_GPR + 8 * \n, %\reg
  jne 9f
  .subsection 1
9: mov %\reg, %fs:PC_HOLD_ACTUAL
  movq $\n + 1, %fs:PC_HOLD_BAD
  jmp HoldOut
  .previous
.endm

/*
 * void HoldGprs(void): beats percpu.hold_left times with every general register at its value of percpu.gpr, then
 * compares them. percpu.hold_bad becomes 1 + the number of one that differs.
 */
.globl HoldGprs, HoldBegin, HoldEnd
HoldGprs:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, %fs:PC_HOLD_RSP
  for_each_gpr load_gpr
HoldBegin:
  incq %gs:VC_BEATS
  decq %fs:PC_HOLD_LEFT
  jnz HoldBegin
HoldEnd:
  for_each_gpr check_gpr
  cmp %fs:PC_HOLD_RSP, %rsp
  je HoldOut
  mov %rsp, %fs:PC_HOLD_ACTUAL
  movq $5, %fs:PC_HOLD_BAD
HoldOut:
  mov %fs:PC_HOLD_RSP, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret

/* void LoadX87(const uint8_t (*st)[16], const uint16_t* fcw, const uint32_t* mxcsr) */
.globl LoadX87
LoadX87:
  fninit
  .irp n, 7, 6, 5, 4, 3, 2, 1, 0
  fldt 16 * \n(%rdi)
  .endr
  fldcw (%rsi)
  ldmxcsr (%rdx)
  ret

/* void SaveFx(void* fxsave_area): changes nothing */
.globl SaveFx
SaveFx:
  fxsave64 (%rdi)
  ret

.macro vector_pair name, instruction, register, stride, last
.globl Load\name, Save\name
Load\name:
  .set n, 0
  .rept \last + 1
  vector_load \instruction, \register, \stride, %n
  .set n, n + 1
  .endr
  ret
Save\name:
  .set n, 0
  .rept \last + 1
  vector_save \instruction, \register, \stride, %n
  .set n, n + 1
  .endr
  ret
.endm
.altmacro
.macro vector_load instruction, register, stride, n
  \instruction \stride * \n(%rdi), %\register\n
.endm
.macro vector_save instruction, register, stride, n
  \instruction %\register\n, \stride * \n(%rdi)
.endm
/* void LoadXmm(const void*), void SaveXmm(void*) and so on: all registers of that width */
vector_pair Xmm, movups, xmm, 16, 15
vector_pair Ymm, vmovups, ymm, 32, 15
vector_pair Zmm, vmovups, zmm, 64, 31
/* k1 to k7; AVX-512BW or not, 16 bits each */
.globl LoadMasks, SaveMasks
LoadMasks:
  .irp n, 1, 2, 3, 4, 5, 6, 7
  kmovw 2 * \n(%rdi), %k\n
  .endr
  ret
SaveMasks:
  .irp n, 1, 2, 3, 4, 5, 6, 7
  kmovw %k\n, 2 * \n(%rdi)
  .endr
  ret
