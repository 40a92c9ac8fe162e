#ifndef LIBCPR_KVM_UAPI_H_
#define LIBCPR_KVM_UAPI_H_

// <linux/kvm.h> as C++ needs it, and what headers older than the running kernel lack. Include this, never
// <linux/kvm.h>.
//
// <linux/stddef.h> of Linux 5.16 to 6.6 declares a flexible array with an empty struct before it. That struct has size
// 0 in C and 1 in C++, so kvm_msrs, kvm_cpuid2, kvm_irq_routing, ... change size and layout in C++, and with the size
// the ioctl's number: KVM_GET_MSRS then answers EINVAL. Later headers have the definition below for C++ themselves.
#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]
#include <asm/kvm_para.h>
#include <linux/kvm.h>

#include <cstddef>

static_assert(sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_list) == 4 && sizeof(kvm_cpuid2) == 8 &&
                  sizeof(kvm_irq_routing) == 8 && sizeof(kvm_xsave) == 4096,
              "<linux/kvm.h> was included before libcpr/kvm/uapi.h: its ioctl numbers are wrong in C++");
static_assert(offsetof(kvm_msrs, entries) == 8 && offsetof(kvm_cpuid2, entries) == 8);

// Documentation/virt/kvm/api.rst: CHECK_EXTENSION answers the size of the xsave area (Linux 5.17).
#ifndef KVM_CAP_XSAVE2
#define KVM_CAP_XSAVE2 208
#endif
// arch/x86/include/uapi/asm/kvm.h (Linux 6.1).
#ifndef KVM_VCPUEVENT_VALID_TRIPLE_FAULT
#define KVM_VCPUEVENT_VALID_TRIPLE_FAULT 0x00000020
#endif

#endif  // LIBCPR_KVM_UAPI_H_
