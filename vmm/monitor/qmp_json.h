#ifndef VMM_MONITOR_QMP_JSON_H_
#define VMM_MONITOR_QMP_JSON_H_

#include "vmm/json/json.h"
#include "vmm/monitor/event.h"
#include "vmm/monitor/target.h"

// What QMP answers, as JSON with QEMU's members. Thread-safe.

namespace cpr {

JsonValue VersionJson();
JsonValue EventJson(const MonitorEvent& event);
// Times are in milliseconds as in QEMU, the six phases of "x-phases" in nanoseconds.
JsonValue MigrationInfoJson(const MigrationInfo& info);

}  // namespace cpr

#endif  // VMM_MONITOR_QMP_JSON_H_
