#include "vmm/sandbox/syscall_lists.h"

namespace cpr {
namespace {

// clang-format off
constexpr const char* kBase[] = {
    // memory
    "brk", "madvise", "membarrier", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mprotect", "mremap", "msync",
    "munlock", "munlockall", "munmap",
    // threads
    "arch_prctl", "clone", "exit", "exit_group", "futex", "futex_waitv", "get_robust_list", "prctl", "rseq",
    "sched_yield", "seccomp", "set_robust_list", "set_tid_address",
    // signals
    "kill", "pause", "pidfd_open", "pidfd_send_signal", "restart_syscall", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo",
    "sigaltstack", "signalfd", "signalfd4", "tgkill", "tkill",
    // time
    "alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "gettimeofday", "nanosleep", "setitimer",
    "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create",
    "timerfd_gettime", "timerfd_settime", "times",
    // waiting
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2",
    "poll", "ppoll", "pselect6", "select", "wait4", "waitid",
    // asking
    "capget", "getcpu", "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid", "gettid", "getuid",
    "prlimit64", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getparam",
    "sched_getscheduler", "sysinfo", "uname",
};

constexpr const char* kFiles[] = {
    // descriptors
    "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fallocate", "fcntl", "fdatasync",
    "flock", "fstat", "fsync", "ftruncate", "ioctl", "lseek", "memfd_create", "pipe", "pipe2", "pread64", "preadv",
    "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readv", "sendfile", "splice", "sync_file_range", "tee",
    "vmsplice", "write", "writev",
    // names
    "access", "chdir", "chmod", "chown", "creat", "faccessat", "faccessat2", "fchdir", "fchmod", "fchmodat", "fchown",
    "fchownat", "fgetxattr", "flistxattr", "fstatfs", "futimesat", "getcwd", "getdents", "getdents64", "getxattr",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "lchown", "lgetxattr", "link", "linkat",
    "listxattr", "llistxattr", "lstat", "mkdir", "mkdirat", "newfstatat", "open", "openat", "openat2", "readlink",
    "readlinkat", "rename", "renameat", "renameat2", "rmdir", "stat", "statfs", "statx", "symlink", "symlinkat",
    "sync", "syncfs", "truncate", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimes",
};

// socket() itself depends on the family.
constexpr const char* kSockets[] = {
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom",
    "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
};

constexpr const char* kSpawn[] = {
    "execve", "execveat", "fork", "setpgid", "setsid", "vfork",
};

constexpr const char* kResources[] = {
    "get_mempolicy", "ioprio_get", "ioprio_set", "mbind", "sched_getattr", "sched_setaffinity", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "set_mempolicy", "setpriority", "setrlimit",
};

constexpr const char* kDangerous[] = {
    // other processes
    "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
    // the kernel
    "bpf", "delete_module", "finit_module", "init_module", "kexec_file_load", "kexec_load", "perf_event_open",
    "reboot", "syslog",
    // file systems, namespaces
    "acct", "chroot", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "mknod", "mknodat", "mount",
    "mount_setattr", "move_mount", "name_to_handle_at", "open_by_handle_at", "open_tree", "pivot_root", "quotactl",
    "quotactl_fd", "setns", "swapoff", "swapon", "umount2", "unshare", "vhangup",
    // privileges, keys
    "add_key", "capset", "keyctl", "request_key", "setfsgid", "setfsuid", "setgid", "setgroups", "setregid",
    "setresgid", "setresuid", "setreuid", "setuid",
    // ways round a filter, and doors to bugs
    "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "modify_ldt", "personality",
    "userfaultfd",
    // the host's clock and name
    "adjtimex", "clock_adjtime", "clock_settime", "setdomainname", "sethostname", "settimeofday",
};
// clang-format on

}  // namespace

absl::Span<const char* const> BaseSyscalls() { return kBase; }
absl::Span<const char* const> FileSyscalls() { return kFiles; }
absl::Span<const char* const> SocketSyscalls() { return kSockets; }
absl::Span<const char* const> SpawnSyscalls() { return kSpawn; }
absl::Span<const char* const> ResourceSyscalls() { return kResources; }
absl::Span<const char* const> DangerousSyscalls() { return kDangerous; }

}  // namespace cpr
