#ifndef LIBCPR_PRESERVE_RAW_SYSCALL_H_
#define LIBCPR_PRESERVE_RAW_SYSCALL_H_

#include <sys/syscall.h>

// System calls for code that shares its thread-local storage with another process and so must not touch errno: the
// kernel's own answer is returned, -errno on error.

#if !defined(__x86_64__)
#error "raw system calls are written for x86_64"
#endif

// Code that runs where no sanitizer runtime may be entered.
#define CPR_RAW __attribute__((no_sanitize("address", "thread", "undefined"), no_stack_protector))

namespace cpr::internal {

CPR_RAW inline long RawSyscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {  // NOLINT
  long result;                                                                                             // NOLINT
  register long r10 __asm__("r10") = d;                                                                    // NOLINT
  register long r8 __asm__("r8") = e;                                                                      // NOLINT
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                   : "rcx", "r11", "memory");
  return result;
}

// clone(2) whose child runs `entry(argument)` on a stack of its own that ends at `stack_top` (16-aligned); `entry` must
// not return. glibc's clone() is no help: it would have the child return into exit().
CPR_RAW inline long RawClone(long flags, void* stack_top, void (*entry)(void*), void* argument) {  // NOLINT
  void** slots = static_cast<void**>(stack_top) - 2;
  slots[0] = argument;
  slots[1] = reinterpret_cast<void*>(entry);
  long result;                           // NOLINT
  register long r10 __asm__("r10") = 0;  // NOLINT
  register long r8 __asm__("r8") = 0;    // NOLINT
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "pop %%rdi\n\t"
      "pop %%rax\n\t"
      "call *%%rax\n\t"
      "ud2\n\t"
      "1:"
      : "=a"(result)
      : "a"(SYS_clone), "D"(flags), "S"(slots), "d"(0L), "r"(r10), "r"(r8)
      : "rcx", "r11", "memory", "cc");
  return result;
}

}  // namespace cpr::internal

#endif  // LIBCPR_PRESERVE_RAW_SYSCALL_H_
