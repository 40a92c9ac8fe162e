#include "vmm/chardev/chardev_state.h"

#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/section_conformance.h"
#include "vmm/chardev/tty.h"
#include "vmm/event_loop/event_loop.h"

namespace cpr::testing {
namespace {

struct ChardevTraits {
  struct Object {
    std::unique_ptr<EventLoop> loop = *EventLoop::Create();
    std::unique_ptr<Chardev> device;
  };
  using Proto = v1::ChardevState;

  static std::unique_ptr<Object> Create() {
    auto object = std::make_unique<Object>();
    object->device = *Chardev::Create({.kind = ChardevConfig::Kind::kFile, .path = "/dev/null"}, object->loop.get());
    object->device->Quiesce();
    return object;
  }
  static void Modify(Object& object) {
    EXPECT_THAT(object.device->Restore({.unwritten = "on its way", .dropped_bytes = 300, .tty = {}}), IsOk());
  }
  static Proto Save(const Object& object) { return ChardevStateToProto(object.device->Save()); }
  static absl::Status Restore(Object& object, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const ChardevState state, ChardevStateFromProto(proto));
    return object.device->Restore(state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"too much output", [](Proto& p) { p.set_unwritten(std::string((256 << 10) + 1, 'x')); }},
            {"half a terminal", [](Proto& p) { p.mutable_tty()->set_iflag(1); }},
            {"a foreign terminal", [](Proto& p) {
               p = ChardevStateToProto({.unwritten = "", .dropped_bytes = 0, .tty = TtyModes{.control_chars = "x"}});
             }}};
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Chardev, SectionConformance, ChardevTraits);

TEST(ChardevStateTest, ConfigRoundTrips) {
  const ChardevConfig config = {
      .kind = ChardevConfig::Kind::kSocket, .path = "/run/\xff", .server = true, .wait = true, .append = true};
  CPR_ASSERT_OK_AND_ASSIGN(const ChardevConfig read, ChardevConfigFromProto(ChardevConfigToProto(config)));
  EXPECT_EQ(read, config);
}

TEST(ChardevStateTest, ConfigNeedsAKnownKind) {
  v1::ChardevConfig proto = ChardevConfigToProto({.kind = ChardevConfig::Kind::kNull});
  for (const int kind : {0, 6, -1}) {
    proto.set_kind(static_cast<v1::ChardevKind>(kind));
    EXPECT_THAT(ChardevConfigFromProto(proto), StatusIs(absl::StatusCode::kDataLoss, ::testing::HasSubstr("kind")));
  }
}

TEST(ChardevStateTest, TerminalRoundTrips) {
  const ChardevState state = {
      .unwritten = "x", .dropped_bytes = 1, .tty = TtyModes{1, 2, 3, 4, std::string(kTtyControlChars, '\x05')}};
  CPR_ASSERT_OK_AND_ASSIGN(const ChardevState read, ChardevStateFromProto(ChardevStateToProto(state)));
  EXPECT_EQ(read, state);
}

}  // namespace
}  // namespace cpr::testing
