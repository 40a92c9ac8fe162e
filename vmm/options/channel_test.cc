#include "vmm/options/channel.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(UriTest, ParsesAndFormatsEachTransport) {
  const struct {
    std::string uri;
    Address address;
  } kCases[] = {
      {"file:vm.state", {.transport = Transport::kFile, .path = "vm.state"}},
      {"file:a,b,offset=4096", {.transport = Transport::kFile, .path = "a,b", .offset_bytes = 4096}},
      {"unix:/run/x.sock", {.transport = Transport::kUnix, .path = "/run/x.sock"}},
      {"tcp:0:44444", {.transport = Transport::kTcp, .host = "0", .port = "44444"}},
      {"tcp::44444", {.transport = Transport::kTcp, .host = "", .port = "44444"}},
      {"tcp:[::1]:7", {.transport = Transport::kTcp, .host = "::1", .port = "7"}},
      {"exec:cat > x", {.transport = Transport::kExec, .command = {"/bin/sh", "-c", "cat > x"}}},
      {"fd:7", {.transport = Transport::kFd, .name = "7"}},
      {"memfd:", {.transport = Transport::kMemfd}},
      {"luo:vm1", {.transport = Transport::kLuo, .name = "vm1"}},
  };
  for (const auto& c : kCases) {
    CPR_ASSERT_OK_AND_ASSIGN(const Address address, ParseUri(c.uri));
    EXPECT_EQ(address, c.address) << c.uri;
    EXPECT_EQ(FormatUri(address), c.uri);
  }
}

TEST(UriTest, SaysWhatIsWrong) {
  const struct {
    std::string uri;
    std::string message;
  } kCases[] = {
      {"rdma:host:1", "unknown migration protocol: rdma:host:1"},
      {"vm.state", "unknown migration protocol: vm.state"},
      {"", "unknown migration protocol: "},
      {"memfd:x", "unknown migration protocol: memfd:x"},
      {"file:", "migration URI 'file:' lacks a path"},
      {"file:x,offset=a", "file URI has bad offset a"},
      {"unix:", "migration URI 'unix:' lacks a path"},
      {"tcp:host", "error parsing address 'host'"},
      {"tcp:host:", "error parsing address 'host:'"},
      {"tcp:host:1,ipv6=on", "error parsing address 'host:1,ipv6=on'"},
      {"exec:", "migration URI 'exec:' lacks a command"},
      {"fd:", "migration URI 'fd:' lacks a file descriptor"},
      {"luo:", "migration URI 'luo:' lacks a session"},
  };
  for (const auto& c : kCases) EXPECT_THAT(ParseUri(c.uri), StatusIs(kInvalid, c.message)) << c.uri;
}

absl::StatusOr<Channel> FromJson(const std::string& text) {
  auto value = ParseJson(text);
  if (!value.ok()) return value.status();
  return ChannelFromObject(value->struct_value(), ArgSource::kJson);
}

TEST(ChannelTest, ParsesTheTranscriptsChannels) {
  CPR_ASSERT_OK_AND_ASSIGN(
      const Channel main,
      FromJson(R"({"channel-type":"main","addr":{"transport":"socket","type":"inet","host":"0","port":"44444"}})"));
  EXPECT_EQ(main, (Channel{ChannelType::kMain, {.transport = Transport::kTcp, .host = "0", .port = "44444"}}));
  CPR_ASSERT_OK_AND_ASSIGN(
      const Channel cpr,
      FromJson(R"({"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"cpr.sock"}})"));
  EXPECT_EQ(cpr, (Channel{ChannelType::kCpr, {.transport = Transport::kUnix, .path = "cpr.sock"}}));
}

TEST(ChannelTest, ParsesTheOtherTransports) {
  const struct {
    std::string address;
    std::string uri;
  } kCases[] = {
      {R"({"transport":"file","filename":"f","offset":8})", "file:f,offset=8"},
      {R"({"transport":"exec","args":["/bin/sh","-c","cat"]})", "exec:cat"},
      {R"({"transport":"exec","args":["gzip","-c"]})", "exec:gzip -c"},
      {R"({"transport":"socket","type":"fd","str":"9"})", "fd:9"},
      {R"({"transport":"memfd"})", "memfd:"},
      {R"({"transport":"luo","session":"s"})", "luo:s"},
  };
  for (const auto& c : kCases) {
    CPR_ASSERT_OK_AND_ASSIGN(const Channel channel, FromJson(R"({"channel-type":"main","addr":)" + c.address + "}"));
    EXPECT_EQ(FormatUri(channel.address), c.uri);
  }
}

TEST(ChannelTest, SaysWhatIsWrong) {
  const struct {
    std::string json;
    std::string message;
  } kCases[] = {
      {R"({})", "Parameter 'channel-type' is missing"},
      {R"({"channel-type":"data"})", "Parameter 'channel-type' does not accept value 'data'"},
      {R"({"channel-type":"main"})", "Parameter 'addr' is missing"},
      {R"({"channel-type":"main","addr":"x"})", "Invalid parameter type for 'addr', expected: object"},
      {R"({"channel-type":"main","addr":{}})", "Parameter 'addr.transport' is missing"},
      {R"({"channel-type":"main","addr":{"transport":"rdma"}})",
       "Parameter 'addr.transport' does not accept value 'rdma'"},
      {R"({"channel-type":"main","addr":{"transport":"socket"}})", "Parameter 'addr.type' is missing"},
      {R"({"channel-type":"main","addr":{"transport":"socket","type":"vsock"}})",
       "Parameter 'addr.type' does not accept value 'vsock'"},
      {R"({"channel-type":"main","addr":{"transport":"socket","type":"inet","host":"h","port":1}})",
       "Invalid parameter type for 'addr.port', expected: string"},
      {R"({"channel-type":"main","addr":{"transport":"file","filename":"f","x":1}})",
       "Parameter 'addr.x' is unexpected"},
      {R"({"channel-type":"main","addr":{"transport":"exec","args":[]}})", "Parameter 'addr.args' is missing"},
      {R"({"channel-type":"main","addr":{"transport":"memfd"},"x":1})", "Parameter 'x' is unexpected"},
      {R"({"channel-type":"main","addr":{"transport":"file","filename":""}})", "migration URI 'file:' lacks a path"},
  };
  for (const auto& c : kCases) EXPECT_THAT(FromJson(c.json), StatusIs(kInvalid, c.message)) << c.json;
}

TEST(ChannelsTest, JoinsOneOfEach) {
  const Channel main{ChannelType::kMain, {.transport = Transport::kTcp, .host = "0", .port = "1"}};
  const Channel cpr{ChannelType::kCpr, {.transport = Transport::kUnix, .path = "s"}};
  const Channel file{ChannelType::kCpr, {.transport = Transport::kFile, .path = "s"}};
  CPR_ASSERT_OK_AND_ASSIGN(const Channels channels, JoinChannels({cpr, main}));
  EXPECT_EQ(channels, (Channels{main.address, cpr.address}));
  EXPECT_THAT(JoinChannels({main}), IsOk());
  EXPECT_THAT(JoinChannels({main, main}), StatusIs(kInvalid, "Channel list has more than one main entry"));
  EXPECT_THAT(JoinChannels({main, cpr, cpr}), StatusIs(kInvalid, "Channel list has more than one cpr entry"));
  EXPECT_THAT(JoinChannels({cpr}), StatusIs(kInvalid, "Channel list has no main entry"));
  EXPECT_THAT(JoinChannels({main, file}), StatusIs(kInvalid, "bad cpr channel address; must be unix"));
}

}  // namespace
}  // namespace cpr
