#include "vmm/virtio/virtqueue.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/virtio/fake_driver.h"
#include "vmm/virtio/ring.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeDriver;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr uint64_t kRingsGpa = 0x1000, kBufferGpa = 0x8000, kTableGpa = 0x4000;
constexpr uint64_t kRamBytes = 1 << 20;
constexpr uint16_t kSize = 8;
constexpr uint16_t kNext = kRingNext, kWrite = kRingWrite, kIndirect = kRingIndirect;

class VirtqueueTest : public ::testing::Test {
 protected:
  Virtqueue Create(Virtqueue::Features features = {.event_index = false, .indirect = true}) {
    return *Virtqueue::Create(&memory_, driver_.layout(), features);
  }
  DescriptorChain PopOne(Virtqueue& queue) {
    auto popped = queue.Pop();
    EXPECT_TRUE(popped.ok()) << popped.status();
    EXPECT_TRUE(popped->has_value());
    return **std::move(popped);
  }
  // What Pop says of a chain that starts with `head`.
  absl::Status Refusal(uint16_t head, Virtqueue::Features features = {.indirect = true}) {
    Virtqueue queue = Create(features);
    driver_.Offer(head);
    return queue.Pop().status();
  }

  const GuestMemory memory_ = testing::CreateTestMemory(kRamBytes);
  FakeDriver driver_{&memory_, kRingsGpa, kSize};
};

TEST_F(VirtqueueTest, RequestGoesThereAndBack) {
  Virtqueue queue = Create();
  CPR_ASSERT_OK_AND_ASSIGN(const auto nothing, queue.Pop());
  EXPECT_FALSE(nothing.has_value());
  const uint16_t head = driver_.Add({{kBufferGpa, 16, false}, {kBufferGpa + 16, 8, false}, {0xa000, 512, true}});
  driver_.Write(kBufferGpa, "sixteen bytes...and more");
  const DescriptorChain chain = PopOne(queue);
  EXPECT_EQ(chain.head, head);
  EXPECT_EQ(TotalBytes(chain.readable), 24u);
  EXPECT_EQ(TotalBytes(chain.writable), 512u);
  uint8_t data[30] = {};
  EXPECT_EQ(CopyFromBuffers(Slice(chain.readable, 10), absl::MakeSpan(data)), 14u);
  EXPECT_STREQ(reinterpret_cast<const char*>(data), "tes...and more");
  EXPECT_EQ(CopyToBuffers(absl::MakeConstSpan(data, 5), Slice(chain.writable, 500, 3)), 3u);
  EXPECT_EQ(driver_.Read(0xa000 + 500, 4), std::string("tes\0", 4));
  queue.Push(chain.head, 503);
  EXPECT_EQ(driver_.TakeUsed(), std::make_pair(uint32_t{head}, uint32_t{503}));
  EXPECT_EQ(driver_.TakeUsed(), std::nullopt);
}

TEST_F(VirtqueueTest, IndicesWrapRound) {
  Virtqueue queue = Create();
  for (int i = 0; i < 0x10000 + 20; ++i) {
    driver_.Add({{kBufferGpa, 1, false}});
    const DescriptorChain chain = PopOne(queue);
    queue.Push(chain.head, 0);
    ASSERT_EQ(driver_.TakeUsed(), std::make_pair(uint32_t{chain.head}, uint32_t{0}));
  }
  EXPECT_EQ(queue.state().next_available, 20);
  EXPECT_EQ(queue.state().next_used, 20);
}

TEST_F(VirtqueueTest, GoesOnWhereAnotherLeftOff) {
  Virtqueue old_side = Create();
  driver_.Add({{kBufferGpa, 1, false}});
  driver_.Add({{kBufferGpa, 2, false}});
  old_side.Push(PopOne(old_side).head, 0);
  Virtqueue new_side = *Virtqueue::Create(&memory_, old_side.state(), {});
  EXPECT_EQ(TotalBytes(PopOne(new_side).readable), 2u);
  EXPECT_TRUE(new_side.TakeInterrupt()) << "the old side may not have come to it";
  EXPECT_FALSE(new_side.TakeInterrupt());
}

TEST_F(VirtqueueTest, IndirectTableIsFollowed) {
  Virtqueue queue = Create();
  driver_.WriteDescriptor(0, {kTableGpa, 32, kIndirect, 0});
  driver_.WriteValue(kTableGpa, RingDescriptor{kBufferGpa, 4, kNext, 1});
  driver_.WriteValue(kTableGpa + 16, RingDescriptor{kBufferGpa + 4, 8, kWrite, 0});
  driver_.Offer(0);
  const DescriptorChain chain = PopOne(queue);
  EXPECT_EQ(TotalBytes(chain.readable), 4u);
  EXPECT_EQ(TotalBytes(chain.writable), 8u);
}

TEST_F(VirtqueueTest, DriverSaysByFlagWhetherItWantsInterrupts) {
  Virtqueue queue = Create();
  EXPECT_TRUE(queue.TakeInterrupt());
  const auto serve = [&] {
    driver_.Add({{kBufferGpa, 1, false}});
    queue.Push(PopOne(queue).head, 0);
  };
  EXPECT_FALSE(queue.TakeInterrupt()) << "nothing has happened";
  serve();
  EXPECT_TRUE(queue.TakeInterrupt());
  driver_.WriteAvailableFlags(kRingNoInterrupt);
  serve();
  EXPECT_FALSE(queue.TakeInterrupt());
}

TEST_F(VirtqueueTest, DriverSaysByIndexWhichInterruptItWants) {
  Virtqueue queue = Create({.event_index = true});
  EXPECT_TRUE(queue.TakeInterrupt());
  driver_.WriteUsedEvent(1);  // the second one
  for (const bool wanted : {false, true, false}) {
    driver_.Add({{kBufferGpa, 1, false}});
    queue.Push(PopOne(queue).head, 0);
    EXPECT_EQ(queue.TakeInterrupt(), wanted);
  }
}

TEST_F(VirtqueueTest, DeviceSaysWhetherItWantsNotifications) {
  Virtqueue flags = Create();
  flags.SuppressNotifications();
  EXPECT_EQ(driver_.UsedFlags(), kRingNoNotify);
  CPR_ASSERT_OK_AND_ASSIGN(bool more, flags.ListenForMore());
  EXPECT_FALSE(more);
  EXPECT_EQ(driver_.UsedFlags(), 0);
  Virtqueue indices = Create({.event_index = true});
  driver_.Add({{kBufferGpa, 1, false}});
  driver_.Add({{kBufferGpa, 1, false}});
  PopOne(indices);
  CPR_ASSERT_OK_AND_ASSIGN(more, indices.ListenForMore());
  EXPECT_TRUE(more);
  EXPECT_EQ(driver_.AvailableEvent(), 1);
}

TEST_F(VirtqueueTest, RingsOutsideOfRamAreRefused) {
  const auto refusal = [&](auto change) {
    VirtqueueState state = driver_.layout();
    change(state);
    return Virtqueue::Create(&memory_, state, {.event_index = true}).status();
  };
  const auto broken = [](const char* text) { return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(text)); };
  for (const uint16_t size : {0, 3, 2048, 0xffff}) {
    EXPECT_THAT(refusal([=](VirtqueueState& s) { s.size = size; }), broken("power of two"));
  }
  EXPECT_THAT(refusal([](VirtqueueState& s) { s.descriptors_gpa += 8; }), broken("descriptor table"));
  EXPECT_THAT(refusal([](VirtqueueState& s) { s.available_gpa += 1; }), broken("available ring"));
  EXPECT_THAT(refusal([](VirtqueueState& s) { s.used_gpa += 2; }), broken("used ring"));
  EXPECT_THAT(refusal([](VirtqueueState& s) { s.descriptors_gpa = kRamBytes - 16; }), broken("descriptor table"));
  EXPECT_THAT(refusal([](VirtqueueState& s) { s.available_gpa = ~uint64_t{1}; }), broken("available ring"));
  // The event index is the last of it.
  EXPECT_THAT(refusal([](VirtqueueState& s) { s.used_gpa = kRamBytes - 4 - kSize * 8; }), broken("used ring"));
}

TEST_F(VirtqueueTest, WhatADriverMayNotDoIsRefused) {
  const auto broken = [](const char* text) { return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(text)); };
  const auto first = [&](const FakeDriver::Descriptor& descriptor) {
    driver_.WriteDescriptor(0, descriptor);
    driver_.WriteAvailableIndex(0);
    return Refusal(0);
  };
  EXPECT_THAT(first({kBufferGpa, 16, kNext, 0}), broken("loop"));
  EXPECT_THAT(first({kBufferGpa, 16, kNext, kSize}), broken("descriptor 8 of 8"));
  EXPECT_THAT(first({kRamBytes - 15, 16, 0, 0}), broken("not all RAM"));
  EXPECT_THAT(first({~uint64_t{0}, 16, kWrite, 0}), broken("not all RAM"));
  EXPECT_THAT(first({kBufferGpa, 0, 0, 0}), broken("empty"));
  EXPECT_THAT(first({kTableGpa, 32, kIndirect | kNext, 1}), broken("next one"));
  EXPECT_THAT(first({kTableGpa, 0, kIndirect, 0}), broken("table of 0"));
  EXPECT_THAT(first({kTableGpa, 24, kIndirect, 0}), broken("table of 24"));
  EXPECT_THAT(first({kTableGpa, 16 * 1025, kIndirect, 0}), broken("indirect table of"));
  EXPECT_THAT(first({kRamBytes - 16, 32, kIndirect, 0}), broken("indirect table"));
  driver_.WriteAvailableIndex(0);
  EXPECT_THAT(Refusal(kSize), broken("descriptor 8 of 8"));
  driver_.WriteAvailableIndex(0);
  driver_.WriteDescriptor(1, {kBufferGpa, 16, kWrite | kNext, 2});
  driver_.WriteDescriptor(2, {kBufferGpa, 16, 0, 0});
  EXPECT_THAT(Refusal(1), broken("behind a writable"));
  driver_.WriteAvailableIndex(kSize + 1);
  EXPECT_THAT(Create().Pop().status(), broken("claims 9 requests"));
}

TEST_F(VirtqueueTest, IndirectTablesHaveRulesOfTheirOwn) {
  const auto broken = [](const char* text) { return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(text)); };
  driver_.WriteDescriptor(0, {kTableGpa, 32, kIndirect, 0});
  const auto first = [&](const RingDescriptor& entry, Virtqueue::Features features = {.indirect = true}) {
    driver_.WriteValue(kTableGpa, entry);
    driver_.WriteAvailableIndex(0);
    return Refusal(0, features);
  };
  EXPECT_THAT(first({kBufferGpa, 16, kNext, 0}), broken("loop"));
  EXPECT_THAT(first({kBufferGpa, 16, kNext, 2}), broken("descriptor 2 of 2"));
  EXPECT_THAT(first({kTableGpa, 32, kIndirect, 0}), broken("within an indirect"));
  EXPECT_THAT(first({kBufferGpa, 16, 0, 0}, {.indirect = false}), broken("not negotiated"));
}

TEST_F(VirtqueueTest, RequestsOfFourGiBAreRefused) {
  const GuestMemory memory = testing::CreateTestMemory(uint64_t{2} << 30);
  FakeDriver driver(&memory, kRingsGpa, kSize);
  const uint32_t half = uint32_t{1} << 31;
  driver.Add({{0, half, false}, {0, half, false}});
  Virtqueue queue = *Virtqueue::Create(&memory, driver.layout(), {});
  EXPECT_THAT(queue.Pop().status(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("4 GiB")));
}

}  // namespace
}  // namespace cpr
