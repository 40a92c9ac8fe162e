#include "vmm/sandbox/sandbox.h"

#include <asm/termbits.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libcpr/base/crc32c.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/sandbox/syscall_lists.h"

namespace cpr {
namespace {

// The filters that this process is under, by their checksums, for the program after an execve.
constexpr char kVariable[] = "CPR_VMM_SANDBOX";
constexpr uint64_t kMaxProgramBytes = 1 << 20;

struct FilterRelease {
  void operator()(scmp_filter_ctx filter) const { ::seccomp_release(filter); }
};
using Filter = std::unique_ptr<std::remove_pointer_t<scmp_filter_ctx>, FilterRelease>;

absl::Status SeccompStatus(int result, absl::string_view what) {
  return result == 0 ? absl::OkStatus() : ErrnoStatus(-result, absl::StrCat("seccomp: ", what));
}

// Restricts all threads. What runs by another ABI (32 bits, x32) finds no system calls.
absl::StatusOr<Filter> NewFilter(uint32_t otherwise) {
  Filter filter(::seccomp_init(otherwise));
  if (filter == nullptr) return absl::ResourceExhaustedError("seccomp_init");
  CPR_RETURN_IF_ERROR(SeccompStatus(::seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1), "TSYNC"));
  CPR_RETURN_IF_ERROR(SeccompStatus(::seccomp_attr_set(filter.get(), SCMP_FLTATR_API_SYSRAWRC, 1), "SYSRAWRC"));
  CPR_RETURN_IF_ERROR(
      SeccompStatus(::seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS)), "BADARCH"));
  return filter;
}

absl::Status AddRule(const Filter& filter, uint32_t action, const char* name,
                     const std::vector<scmp_arg_cmp>& arguments = {}) {
  const int number = ::seccomp_syscall_resolve_name(name);
  if (number == __NR_SCMP_ERROR) return absl::InternalError(absl::StrCat("seccomp: no system call '", name, "'"));
  return SeccompStatus(
      ::seccomp_rule_add_array(filter.get(), action, number, static_cast<unsigned>(arguments.size()), arguments.data()),
      name);
}

absl::Status AddRules(const Filter& filter, uint32_t action, absl::Span<const char* const> names) {
  for (const char* name : names) CPR_RETURN_IF_ERROR(AddRule(filter, action, name));
  return absl::OkStatus();
}

// Which system calls there are.
absl::StatusOr<Filter> CallFilter(const SandboxOption& option) {
  CPR_ASSIGN_OR_RETURN(Filter filter, NewFilter(SCMP_ACT_ERRNO(ENOSYS)));
  for (const auto& names : {BaseSyscalls(), FileSyscalls(), SocketSyscalls()}) {
    CPR_RETURN_IF_ERROR(AddRules(filter, SCMP_ACT_ALLOW, names));
  }
  for (const uint64_t family : {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK}) {
    CPR_RETURN_IF_ERROR(AddRule(filter, SCMP_ACT_ALLOW, "socket", {SCMP_A0(SCMP_CMP_EQ, family)}));
  }
  constexpr uint32_t kDenied = SCMP_ACT_ERRNO(EPERM);
  CPR_RETURN_IF_ERROR(AddRules(filter, option.spawn ? SCMP_ACT_ALLOW : kDenied, SpawnSyscalls()));
  CPR_RETURN_IF_ERROR(AddRules(filter, option.resource_control ? SCMP_ACT_ALLOW : kDenied, ResourceSyscalls()));
  CPR_RETURN_IF_ERROR(AddRules(filter, kDenied, DangerousSyscalls()));
  return filter;
}

// What they may be called with. Of two filters the stricter answer counts. (clone3, whose flags no filter sees, is on
// no list: libraries fall back on clone.)
absl::StatusOr<Filter> ArgumentFilter(const SandboxOption& option) {
  CPR_ASSIGN_OR_RETURN(Filter filter, NewFilter(SCMP_ACT_ALLOW));
  constexpr uint32_t kDenied = SCMP_ACT_ERRNO(EPERM);
  constexpr uint64_t kLow = 0xffffffff;
  for (const uint64_t flag :
       {CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET}) {
    CPR_RETURN_IF_ERROR(AddRule(filter, kDenied, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag)}));
  }
  if (!option.spawn) {
    CPR_RETURN_IF_ERROR(AddRule(filter, kDenied, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, uint64_t{CLONE_THREAD}, 0)}));
  }
  // Keys pushed into the terminal of whoever started us, and other processes' limits.
  for (const uint64_t request : {TIOCSTI, TIOCLINUX}) {
    CPR_RETURN_IF_ERROR(AddRule(filter, kDenied, "ioctl", {SCMP_A1(SCMP_CMP_MASKED_EQ, kLow, request)}));
  }
  CPR_RETURN_IF_ERROR(AddRule(filter, kDenied, "prlimit64", {SCMP_A0(SCMP_CMP_NE, 0)}));
  return filter;
}

absl::StatusOr<std::string> Checksum(const std::vector<Filter>& filters) {
  const UniqueFd file(::memfd_create("cpr-seccomp", MFD_CLOEXEC));
  if (!file.ok()) return ErrnoStatus(errno, "memfd_create");
  for (const Filter& filter : filters) {
    CPR_RETURN_IF_ERROR(SeccompStatus(::seccomp_export_bpf(filter.get(), file.get()), "export"));
  }
  ::lseek(file.get(), 0, SEEK_SET);
  CPR_ASSIGN_OR_RETURN(const std::string program, ReadToEnd(file.get(), kMaxProgramBytes));
  return absl::StrCat(absl::Hex(Crc32c(program), absl::kZeroPad8));
}

std::string InheritedChecksums() {
  const char* variable = std::getenv(kVariable);
  constexpr int kFiltered = 2;
  const bool restricted = ::prctl(PR_GET_SECCOMP) == kFiltered && ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
  return variable != nullptr && restricted ? variable : "";
}

}  // namespace

bool StartedInSandbox() { return !InheritedChecksums().empty(); }

absl::Status EnterSandbox(const SandboxOption& option) {
  if (!option.on) return absl::OkStatus();
  std::vector<Filter> filters;
  CPR_ASSIGN_OR_RETURN(filters.emplace_back(), CallFilter(option));
  CPR_ASSIGN_OR_RETURN(filters.emplace_back(), ArgumentFilter(option));
  CPR_ASSIGN_OR_RETURN(const std::string checksum, Checksum(filters));
  const std::string inherited = InheritedChecksums();
  const std::vector<std::string> known = absl::StrSplit(inherited, ',');
  if (std::find(known.begin(), known.end(), checksum) != known.end()) return absl::OkStatus();
  for (const Filter& filter : filters) CPR_RETURN_IF_ERROR(SeccompStatus(::seccomp_load(filter.get()), "load"));
  const std::string all = inherited.empty() ? checksum : absl::StrCat(inherited, ",", checksum);
  return ::setenv(kVariable, all.c_str(), 1) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "setenv");
}

}  // namespace cpr
