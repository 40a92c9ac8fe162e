#include "vmm/monitor/qmp_monitor.h"

#include <sys/mman.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/monitor/fake_target.h"

namespace cpr {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

class QmpMonitorTest : public ::testing::Test {
 protected:
  void Negotiate() { ASSERT_EQ(Ask(R"({"execute":"qmp_capabilities"})"), R"({"return": {}})"); }
  // What the monitor answers to `bytes`, without line ends.
  std::string Ask(const std::string& bytes) { return absl::StrJoin(AskAll(bytes), "\n"); }
  std::vector<std::string> AskAll(const std::string& bytes) {
    output_.clear();
    monitor_.Receive(bytes);
    return Lines();
  }
  std::vector<std::string> Lines() {
    std::vector<std::string> lines = absl::StrSplit(output_, "\r\n", absl::SkipEmpty());
    output_.clear();
    return lines;
  }
  std::string Execute(const std::string& command, const std::string& arguments = "{}") {
    return Ask(absl::StrCat(R"({"execute":")", command, R"(","arguments":)", arguments, "}"));
  }
  static std::string Error(const std::string& desc, const std::string& error_class = "GenericError") {
    return absl::StrCat(R"({"error": {"class": ")", error_class, R"(", "desc": ")", desc, R"("}})");
  }

  FakeTarget target_;
  std::string output_;
  QmpMonitor monitor_{&target_, [this](absl::string_view bytes) { output_.append(bytes.data(), bytes.size()); }};
};

constexpr char kOk[] = R"({"return": {}})";

TEST_F(QmpMonitorTest, GreetsAsQemuDoes) {
  monitor_.Start();
  EXPECT_EQ(
      output_,
      "{\"QMP\": {\"capabilities\": [], \"version\": {\"package\": \"cpr-vmm\", \"qemu\": {\"major\": 11, \"micro\": "
      "0, \"minor\": 1}}}}\r\n");
}

TEST_F(QmpMonitorTest, NegotiatesFirst) {
  EXPECT_EQ(Execute("query-status"),
            Error("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound"));
  EXPECT_EQ(Execute("qmp_capabilities", R"({"enable":["oob"]})"), Error("Capability 'oob' is not available"));
  monitor_.OnEvent({.kind = MonitorEvent::Kind::kStop});
  EXPECT_EQ(output_, "") << "no events before the negotiation";
  Negotiate();
  EXPECT_EQ(Execute("qmp_capabilities"),
            Error("Capabilities negotiation is already complete, command ignored", "CommandNotFound"));
}

TEST_F(QmpMonitorTest, AnswersQueries) {
  Negotiate();
  const struct {
    std::string command;
    std::string answer;
  } kCases[] = {
      {"query-version", R"({"package": "cpr-vmm", "qemu": {"major": 11, "micro": 0, "minor": 1}})"},
      {"query-status", R"({"running": true, "status": "running"})"},
      {"query-name", R"({})"},
      {"query-uuid", R"({"UUID": "00000000-0000-0000-0000-000000000000"})"},
      {"query-cpus-fast",
       R"([{"cpu-index": 0, "qom-path": "/machine/unattached/device[0]", "target": "x86_64", "thread-id": 100}, )"
       R"({"cpu-index": 1, "qom-path": "/machine/unattached/device[1]", "target": "x86_64", "thread-id": 101}])"},
      {"query-chardev", R"([{"filename": "file", "frontend-open": true, "label": "serial0"}])"},
      {"query-migrate", R"({"status": "none"})"},
      {"query-migrate-parameters", R"({"cpr-exec-command": [], "mode": "normal"})"},
      {"query-migrate-capabilities",
       R"([{"capability": "events", "state": true}, {"capability": "x-ignore-shared", "state": false}, )"
       R"({"capability": "x-mapped-restore", "state": false}])"},
      {"query-cpr", R"([{"blockers": [], "mode": "cpr-reboot", "ready": true}, )"
                    R"({"blockers": ["RAM is private", "disk"], "mode": "cpr-transfer", "ready": false}, )"
                    R"({"blockers": [], "mode": "cpr-exec", "ready": true}])"},
  };
  for (const auto& c : kCases) EXPECT_EQ(Execute(c.command), R"({"return": )" + c.answer + "}") << c.command;
  target_.vm_name = "vm";
  EXPECT_EQ(Execute("query-name"), R"({"return": {"name": "vm"}})");
}

TEST_F(QmpMonitorTest, OffersEveryCommandOfTheSurface) {
  Negotiate();
  const std::string commands = Execute("query-commands");
  for (const std::string name : {"query-version",
                                 "query-commands",
                                 "query-status",
                                 "query-name",
                                 "query-cpus-fast",
                                 "query-chardev",
                                 "query-migrate",
                                 "query-migrate-parameters",
                                 "query-migrate-capabilities",
                                 "query-cpr",
                                 "migrate",
                                 "migrate-incoming",
                                 "migrate-set-parameters",
                                 "migrate-set-capabilities",
                                 "migrate_cancel",
                                 "stop",
                                 "cont",
                                 "system_wakeup",
                                 "system_reset",
                                 "system_powerdown",
                                 "quit",
                                 "getfd"}) {
    EXPECT_THAT(commands, HasSubstr("{\"name\": \"" + name + "\"}"));
  }
}

TEST_F(QmpMonitorTest, ShowsEachRunState) {
  Negotiate();
  const struct {
    RunState state;
    std::string name;
  } kCases[] = {
      {RunState::kPaused, "paused"},
      {RunState::kSuspended, "suspended"},
      {RunState::kFinishMigrate, "finish-migrate"},
      {RunState::kPostmigrate, "postmigrate"},
      {RunState::kInmigrate, "inmigrate"},
      {RunState::kShutdown, "shutdown"},
  };
  for (const auto& c : kCases) {
    target_.state = c.state;
    EXPECT_EQ(Execute("query-status"), R"({"return": {"running": false, "status": ")" + c.name + R"("}})");
  }
}

TEST_F(QmpMonitorTest, ShowsMigrationWithWholeNumbers) {
  Negotiate();
  target_.info = {.status = MigrationStatus::kCompleted,
                  .total_time = absl::Milliseconds(12),
                  .setup_time = absl::Milliseconds(9),
                  .downtime = absl::Microseconds(2700),
                  .transferred_bytes = 4096,
                  .total_bytes = 1ull << 50,
                  .in_place_bytes = (1ull << 50) - 4096,
                  .phases_ns = {1, 1000000000000000, 3, 4, 5, 9007199254740991}};
  EXPECT_EQ(Execute("query-migrate"),
            R"({"return": {"downtime": 2, "ram": {"in-place": 1125899906838528, "remaining": 0, "total": )"
            R"(1125899906842624, "transferred": 4096}, "setup-time": 9, "status": "completed", "total-time": 12, )"
            R"("x-phases": {"check": 1, "commit": 5, "prepare": 1000000000000000, "resume": 9007199254740991, )"
            R"("save": 4, "stop": 3}}})");
  target_.info = {.status = MigrationStatus::kFailed, .error_desc = "disk full"};
  EXPECT_THAT(Execute("query-migrate"), HasSubstr(R"("error-desc": "disk full")"));
}

TEST_F(QmpMonitorTest, PassesCommandsOn) {
  Negotiate();
  for (const std::string command : {"stop", "cont", "system_wakeup", "system_reset", "system_powerdown"}) {
    EXPECT_EQ(Execute(command), kOk);
    EXPECT_EQ(target_.calls.back(), command);
  }
  EXPECT_EQ(Execute("migrate_cancel"), kOk);
  EXPECT_EQ(Execute("quit"), kOk);
  EXPECT_EQ(target_.calls.back(), "quit");
  target_.answer = absl::NotFoundError("no guest");
  EXPECT_EQ(Execute("stop"), Error("no guest")) << "CommandNotFound is for commands only";
}

// The transcript of cpr-transfer, as typed.
TEST_F(QmpMonitorTest, MigratesByChannels) {
  Negotiate();
  EXPECT_EQ(Ask(R"({"execute":"migrate-set-parameters","arguments":{"mode":"cpr-transfer"}})"), kOk);
  EXPECT_EQ(Ask(R"({"execute":"migrate","arguments":{"channels":[
             {"channel-type":"main","addr":{"transport":"socket","type":"inet","host":"0","port":"44444"}},
             {"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"cpr.sock"}}]}})"),
            kOk);
  EXPECT_EQ(Execute("migrate-incoming", R"({"uri":"tcp:0:44444"})"), kOk);
  EXPECT_THAT(target_.calls, ElementsAre("migrate tcp:0:44444 unix:cpr.sock", "incoming tcp:0:44444"));
}

TEST_F(QmpMonitorTest, SetsParametersAndCapabilities) {
  Negotiate();
  EXPECT_EQ(Execute("migrate-set-parameters", R"({"mode":"cpr-exec","cpr-exec-command":["a","b"]})"), kOk);
  EXPECT_EQ(Execute("query-migrate-parameters"), R"({"return": {"cpr-exec-command": ["a", "b"], "mode": "cpr-exec"}})");
  EXPECT_EQ(Execute("migrate-set-parameters", R"({"cpr-exec-args":["c"]})"), kOk);
  EXPECT_THAT(target_.settings.exec_command(), ElementsAre("c"));
  EXPECT_EQ(Execute("migrate-set-capabilities", R"({"capabilities":[{"capability":"x-ignore-shared","state":true}]})"),
            kOk);
  EXPECT_TRUE(target_.settings.ignore_shared());
  EXPECT_EQ(Execute("migrate-set-capabilities", R"({"capabilities":[{"capability":"x-ignore-shared","state":false},)"
                                                R"({"capability":"x-colo","state":true}]})"),
            Error("Cannot use COLO with CPR"));
  EXPECT_TRUE(target_.settings.ignore_shared()) << "a refused list changes nothing";
}

struct Refusal {
  std::string command;
  std::string arguments;
  std::string desc;
};

TEST_F(QmpMonitorTest, ChecksArguments) {
  Negotiate();
  ASSERT_EQ(Execute("migrate-set-parameters", R"({"mode":"cpr-transfer"})"), kOk);
  const std::string main = R"({"channel-type":"main","addr":{"transport":"socket","type":"unix","path":"m"}})";
  const std::string file = R"({"channel-type":"main","addr":{"transport":"file","filename":"m"}})";
  const std::string cpr = R"({"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"c"}})";
  const std::string bad_cpr = R"({"channel-type":"cpr","addr":{"transport":"file","filename":"c"}})";
  const Refusal kCases[] = {
      {"query-status", R"({"x":1})", "Parameter 'x' is unexpected"},
      {"stop", R"({"x":1})", "Parameter 'x' is unexpected"},
      {"quit", R"({"x":1})", "Parameter 'x' is unexpected"},
      {"migrate", R"({"uri":7})", "Invalid parameter type for 'uri', expected: string"},
      {"migrate", "{}", "neither 'uri' or 'channels' argument are specified in 'migrate' qmp command"},
      {"migrate", R"({"uri":"file:x","channels":[]})",
       "'uri' and 'channels' arguments are mutually exclusive; exactly one of the two should be present in 'migrate' "
       "qmp "
       "command"},
      {"migrate", R"({"channels":[1]})", "Invalid parameter type for 'channels[0]', expected: object"},
      {"migrate", R"({"channels":[)" + main + R"(,{"channel-type":"cpr"}]})",
       "Parameter 'channels[1].addr' is missing"},
      {"migrate", R"({"channels":[{"channel-type":"main","addr":{"transport":"rdma"}}]})",
       "Parameter 'channels[0].addr.transport' does not accept value 'rdma'"},
      {"migrate", R"({"channels":[]})", "Channel list has no main entry"},
      {"migrate", R"({"channels":[)" + cpr + "]}", "Channel list has no main entry"},
      {"migrate", R"({"channels":[)" + main + "," + main + "]}", "Channel list has more than one main entry"},
      {"migrate", R"({"channels":[)" + main + "," + cpr + "," + cpr + "]}", "Channel list has more than one cpr entry"},
      {"migrate", R"({"channels":[)" + main + "," + bad_cpr + "]}", "bad cpr channel address; must be unix"},
      {"migrate", R"({"channels":[)" + main + "]}", "missing 'cpr' migration channel"},
      {"migrate", R"({"channels":[)" + file + "," + cpr + "]}", "Migration requires streamable transport (eg unix)"},
      {"migrate", R"({"uri":"bogus:x"})", "unknown migration protocol: bogus:x"},
      {"migrate-incoming", R"({"channels":[)" + main + "," + cpr + "]}",
       "the 'cpr' channel can be given on the command line only, with -incoming"},
      {"migrate-set-parameters", R"({"mode":"live"})", "Parameter 'mode' does not accept value 'live'"},
      {"migrate-set-parameters", R"({"mode":true})", "Invalid parameter type for 'mode', expected: string"},
      {"migrate-set-parameters", R"({"max-bandwidth":1})", "Parameter 'max-bandwidth' is unexpected"},
      {"migrate-set-parameters", R"({"cpr-exec-command":"x"})",
       "Invalid parameter type for 'cpr-exec-command', expected: array"},
      {"migrate-set-capabilities", "{}", "Parameter 'capabilities' is missing"},
      {"migrate-set-capabilities", R"({"capabilities":[{"capability":"events"}]})",
       "Parameter 'capabilities[0].state' is missing"},
      {"migrate-set-capabilities", R"({"capabilities":[{"capability":"xbzrle","state":true}]})",
       "Parameter 'capability' does not accept value 'xbzrle'"},
      {"getfd", "{}", "Parameter 'fdname' is missing"},
      {"getfd", R"({"fdname":"x"})", "No file descriptor supplied via SCM_RIGHTS"},
  };
  for (const Refusal& c : kCases) EXPECT_EQ(Execute(c.command, c.arguments), Error(c.desc)) << c.command << c.arguments;
  EXPECT_THAT(target_.calls, IsEmpty());
}

TEST_F(QmpMonitorTest, ChecksRequests) {
  Negotiate();
  const struct {
    std::string request;
    std::string desc;
  } kCases[] = {
      {"[]", "QMP input must be a JSON object"},
      {"7 ", "QMP input must be a JSON object"},
      {"{}", "QMP input lacks member 'execute'"},
      {R"({"execute":1})", "QMP input member 'execute' must be a string"},
      {R"({"execute":"stop","arguments":[]})", "QMP input member 'arguments' must be an object"},
      {R"({"execute":"stop","x":1})", "QMP input member 'x' is unexpected"},
  };
  for (const auto& c : kCases) EXPECT_EQ(Ask(c.request), Error(c.desc));
  EXPECT_EQ(Execute("frobnicate"), Error("The command frobnicate has not been found", "CommandNotFound"));
  EXPECT_THAT(Ask("nonsense\n"), StartsWith(R"({"error": {"class": "GenericError", "desc": "JSON parse error, )"));
  EXPECT_THAT(Ask("{]"), HasSubstr("JSON parse error, "));
  EXPECT_EQ(Execute("stop"), kOk) << "goes on after an error";
}

TEST_F(QmpMonitorTest, EchoesAnyId) {
  Negotiate();
  for (const std::string id :
       {R"("libvirt-7")", "7", "-1", "1000000000000000", "true", "null", R"([1, {"a": "b"}])", "0.5"}) {
    EXPECT_EQ(Ask(R"({"execute":"stop","id":)" + id + "}"), R"({"id": )" + id + R"(, "return": {}})");
  }
  EXPECT_EQ(Ask(R"({"execute":"x","id":1})"),
            R"({"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}, "id": 1})");
}

TEST_F(QmpMonitorTest, TakesManyRequestsAtOnceAndOneInManyPieces) {
  Negotiate();
  EXPECT_THAT(AskAll(R"({"execute":"stop"}{"execute":"cont"} {"execute":"stop"})"), ElementsAre(kOk, kOk, kOk));
  const std::string request = R"({"execute":"stop","id":"}{\"]["})";
  for (const char c : request.substr(0, request.size() - 1)) EXPECT_THAT(AskAll(std::string(1, c)), IsEmpty());
  EXPECT_EQ(Ask("}"), R"({"id": "}{\"][", "return": {}})");
}

TEST_F(QmpMonitorTest, LimitsARequestsSizeAndGoesOnAfterIt) {
  Negotiate();
  std::vector<std::string> answers = AskAll(R"({"execute":")" + std::string(kMaxJsonBytes, 'x'));
  EXPECT_THAT(answers, ElementsAre(Error("JSON token size limit exceeded")));
  EXPECT_EQ(Ask("xxx\"}\n"), "");
  EXPECT_EQ(Execute("stop"), kOk);
  answers = AskAll(std::string(1000, '[') + std::string(1000, ']'));
  EXPECT_THAT(answers, ElementsAre(Error("JSON nesting depth limit exceeded")));
}

TEST_F(QmpMonitorTest, SendsEventsWithTimestamps) {
  Negotiate();
  const absl::Time time = absl::FromUnixMicros(1700000000000042);
  const struct {
    MonitorEvent event;
    std::string text;
  } kCases[] = {
      {{.kind = MonitorEvent::Kind::kStop, .time = time}, R"("event": "STOP")"},
      {{.kind = MonitorEvent::Kind::kResume, .time = time}, R"("event": "RESUME")"},
      {{.kind = MonitorEvent::Kind::kSuspend, .time = time}, R"("event": "SUSPEND")"},
      {{.kind = MonitorEvent::Kind::kWakeup, .time = time}, R"("event": "WAKEUP")"},
      {{.kind = MonitorEvent::Kind::kReset, .by_guest = true, .reason = "guest-reset", .time = time},
       R"("data": {"guest": true, "reason": "guest-reset"}, "event": "RESET")"},
      {{.kind = MonitorEvent::Kind::kShutdown, .reason = "host-qmp-quit", .time = time},
       R"("data": {"guest": false, "reason": "host-qmp-quit"}, "event": "SHUTDOWN")"},
      {{.kind = MonitorEvent::Kind::kMigration, .status = MigrationStatus::kDevice, .time = time},
       R"("data": {"status": "device"}, "event": "MIGRATION")"},
  };
  for (const auto& c : kCases) {
    monitor_.OnEvent(c.event);
    EXPECT_THAT(Lines(), ElementsAre("{" + c.text + R"(, "timestamp": {"microseconds": 42, "seconds": 1700000000}})"));
  }
}

TEST_F(QmpMonitorTest, MigrationEventsCanBeSwitchedOff) {
  Negotiate();
  ASSERT_EQ(Execute("migrate-set-capabilities", R"({"capabilities":[{"capability":"events","state":false}]})"), kOk);
  monitor_.OnEvent({.kind = MonitorEvent::Kind::kMigration, .status = MigrationStatus::kActive});
  EXPECT_THAT(Lines(), IsEmpty());
}

TEST_F(QmpMonitorTest, GetfdTakesDescriptorsInOrder) {
  Negotiate();
  UniqueFd first(::memfd_create("first", MFD_CLOEXEC));
  const int number = first.get();
  monitor_.ReceiveFd(std::move(first));
  monitor_.ReceiveFd(UniqueFd(::memfd_create("second", MFD_CLOEXEC)));
  EXPECT_EQ(Execute("getfd", R"({"fdname":"a"})"), kOk);
  EXPECT_EQ(target_.fds["a"].get(), number);
  EXPECT_EQ(Execute("getfd", R"({"fdname":"7"})"),
            Error("Parameter 'fdname' expects a name not starting with a digit"));
  EXPECT_THAT(target_.fds, SizeIs(1));
  for (int i = 0; i < 100; ++i) monitor_.ReceiveFd(UniqueFd(::memfd_create("flood", MFD_CLOEXEC)));
}

}  // namespace
}  // namespace cpr
