#ifndef VMM_OPTIONS_SANDBOX_OPTION_H_
#define VMM_OPTIONS_SANDBOX_OPTION_H_

namespace cpr {

// -sandbox on|off[,spawn=allow|deny][,resourcecontrol=allow|deny]
struct SandboxOption {
  bool on = false;
  bool spawn = true;             // new processes and programs: cpr-exec, exec:
  bool resource_control = true;  // priorities, CPU and memory placement, resource limits
};

}  // namespace cpr

#endif  // VMM_OPTIONS_SANDBOX_OPTION_H_
