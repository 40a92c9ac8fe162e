#include "vmm/vfio/notices.h"

#include <linux/vfio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kErr = VFIO_PCI_ERR_IRQ_INDEX, kReq = VFIO_PCI_REQ_IRQ_INDEX;

// The kernel's side of a device: keeps the files that it is given, as the kernel does.
struct FakeDevice {
  std::vector<uint32_t> has = {kErr, kReq};
  std::optional<uint32_t> refused;
  std::map<uint32_t, UniqueFd> eventfds;
  int connects = 0;

  vfio::Device Device() {
    return vfio::Device::Adopt(UniqueFd(), [this](int, unsigned long request, void* argument) {  // NOLINT
      const int error = Answer(request, argument);
      errno = error;
      return error == 0 ? 0 : -1;
    });
  }
  void Signal(uint32_t index) { EXPECT_EQ(::eventfd_write(eventfds.at(index).get(), 1), 0); }

 private:
  int Answer(unsigned long request, void* argument) {  // NOLINT(google-runtime-int)
    if (request == VFIO_DEVICE_GET_IRQ_INFO) {
      auto& info = *static_cast<vfio_irq_info*>(argument);
      info.count = 1;
      return std::find(has.begin(), has.end(), info.index) == has.end() ? EINVAL : 0;
    }
    vfio_irq_set set;
    std::memcpy(&set, argument, sizeof(set));
    if (request != VFIO_DEVICE_SET_IRQS || set.start != 0 || set.count != 1 || set.index == refused) return ENOSPC;
    int eventfd = -1;
    std::memcpy(&eventfd, static_cast<const uint8_t*>(argument) + offsetof(vfio_irq_set, data), sizeof(eventfd));
    eventfds[set.index].Reset(::dup(eventfd));
    ++connects;
    return 0;
  }
};

// A VMM that has the device: its event loop, and what it is told.
struct Holder {
  explicit Holder(FakeDevice& kernel, VfioNotices::Fds arrived = {}) : device(kernel.Device()) {
    absl::StatusOr<std::unique_ptr<VfioNotices>> made =
        VfioNotices::Create({.device = &device,
                             .loop = loop.get(),
                             .failed = [this](const std::string& text) { failures.push_back(text); },
                             .warn = [this](const std::string& text) { warnings.push_back(text); }},
                            std::move(arrived));
    EXPECT_THAT(made.status(), IsOk());
    notices = *std::move(made);
  }
  // As a handover gives them on.
  VfioNotices::Fds Dup() const {
    VfioNotices::Fds fds;
    for (size_t i = 0; i < fds.size(); ++i) {
      if (notices->fds()[i] >= 0) fds[i].Reset(::dup(notices->fds()[i]));
    }
    return fds;
  }
  // What has been reported to the loop is dealt with.
  void Look() const {
    while (loop->RunOnce(absl::ZeroDuration())) continue;
  }

  std::unique_ptr<EventLoop> loop = EventLoop::Create().value();
  vfio::Device device;
  std::vector<std::string> failures, warnings;
  std::unique_ptr<VfioNotices> notices;
};

TEST(VfioNotices, DeviceWithNeitherIsToldNothing) {
  FakeDevice kernel;
  kernel.has = {};
  Holder holder(kernel);
  EXPECT_EQ(kernel.connects, 0);
  EXPECT_THAT(holder.notices->fds(), ElementsAre(-1, -1));
  EXPECT_THAT(holder.notices->Release(), IsOk());
  holder.notices->Hold();
  EXPECT_THAT(holder.warnings, IsEmpty());
}

TEST(VfioNotices, DeviceWithOneHasThatOne) {
  for (const uint32_t index : {kErr, kReq}) {
    FakeDevice kernel;
    kernel.has = {index};
    Holder holder(kernel);
    ASSERT_THAT(holder.notices->Release(), IsOk());
    kernel.Signal(index);
    holder.Look();
    EXPECT_THAT(holder.failures, SizeIs(index == kErr ? 1 : 0));
    EXPECT_THAT(holder.warnings, SizeIs(index == kReq ? 1 : 0));
    EXPECT_EQ(kernel.connects, 1);
  }
}

TEST(VfioNotices, OneThatTheKernelRefusesIsNamedAndTheOtherWorks) {
  FakeDevice kernel;
  kernel.refused = kErr;
  Holder holder(kernel);
  EXPECT_THAT(holder.warnings, ElementsAre(HasSubstr("error interrupt: VFIO_DEVICE_SET_IRQS: No space left")));
  EXPECT_EQ(holder.notices->fds()[0], -1);
  kernel.Signal(kReq);
  holder.Look();
  EXPECT_THAT(holder.warnings, SizeIs(2));
}

TEST(VfioNotices, FailureIsToldEachTimeWhileTheGuestRuns) {
  FakeDevice kernel;
  Holder holder(kernel);
  kernel.Signal(kErr);
  holder.Look();
  EXPECT_THAT(holder.failures, IsEmpty()) << "the guest does not run yet";
  ASSERT_THAT(holder.notices->Release(), IsOk());
  holder.Look();
  EXPECT_THAT(holder.failures, ElementsAre(HasSubstr("the guest is stopped")));
  holder.notices->Hold();
  kernel.Signal(kErr);
  kernel.Signal(kErr);
  holder.Look();
  EXPECT_THAT(holder.failures, SizeIs(1));
  ASSERT_THAT(holder.notices->Release(), IsOk());
  holder.Look();
  EXPECT_THAT(holder.failures, SizeIs(2)) << "two at a time are one";
}

TEST(VfioNotices, GuestMayBeStoppedFromWithin) {
  FakeDevice kernel;
  Holder holder(kernel);
  VfioNotices* notices = nullptr;
  holder.notices = VfioNotices::Create({.device = &holder.device,
                                        .loop = holder.loop.get(),
                                        .failed = [&](const std::string&) { notices->Hold(); },
                                        .warn = nullptr},
                                       {})
                       .value();
  notices = holder.notices.get();
  ASSERT_THAT(notices->Release(), IsOk());
  kernel.Signal(kErr);
  holder.Look();
  kernel.Signal(kErr);
  EXPECT_FALSE(holder.loop->RunOnce(absl::ZeroDuration()));
}

TEST(VfioNotices, FailureOfTheMomentBetweenTwoVmmsIsTheNewOnes) {
  FakeDevice kernel;
  Holder old_side(kernel);
  ASSERT_THAT(old_side.notices->Release(), IsOk());
  Holder new_side(kernel, old_side.Dup());
  EXPECT_EQ(kernel.connects, 2) << "the device is told nothing any more";
  old_side.notices->Hold();
  kernel.Signal(kErr);
  old_side.Look();
  ASSERT_THAT(new_side.notices->Release(), IsOk());
  new_side.Look();
  EXPECT_THAT(old_side.failures, IsEmpty());
  EXPECT_THAT(new_side.failures, SizeIs(1));
}

TEST(VfioNotices, FailureStaysWithTheOldVmmWhoseHandoverIsCalledOff) {
  FakeDevice kernel;
  Holder old_side(kernel);
  ASSERT_THAT(old_side.notices->Release(), IsOk());
  {
    Holder new_side(kernel, old_side.Dup());
    old_side.notices->Hold();
    kernel.Signal(kErr);
    new_side.Look();
    EXPECT_THAT(new_side.failures, IsEmpty());
  }
  ASSERT_THAT(old_side.notices->Release(), IsOk());
  old_side.Look();
  EXPECT_THAT(old_side.failures, SizeIs(1));
}

TEST(VfioNotices, RequestIsToldOnceHoweverOftenTheKernelSignals) {
  FakeDevice kernel;
  Holder holder(kernel);
  for (int i = 0; i < 3; ++i) {
    kernel.Signal(kReq);
    holder.Look();
    EXPECT_THAT(holder.warnings, ElementsAre(HasSubstr("the host wants the device back")));
  }
}

TEST(VfioNotices, RequestIsFoundByEveryVmmThatHasTheDevice) {
  FakeDevice kernel;
  Holder first(kernel);
  kernel.Signal(kReq);
  first.Look();
  Holder second(kernel, first.Dup());
  first.notices->Hold();
  second.Look();
  EXPECT_THAT(second.warnings, SizeIs(1)) << "though its guest has not come yet";
  first.notices.reset();
  Holder third(kernel, second.Dup());
  third.Look();
  EXPECT_THAT(third.warnings, SizeIs(1));
  EXPECT_THAT(first.warnings, SizeIs(1));
}

TEST(VfioNotices, WhatHasNotComeIsConnectedAnew) {
  FakeDevice kernel;
  Holder old_side(kernel);
  VfioNotices::Fds fds = old_side.Dup();
  fds[1].Reset();
  Holder new_side(kernel, std::move(fds));
  EXPECT_EQ(kernel.connects, 3);
  kernel.Signal(kReq);
  new_side.Look();
  EXPECT_THAT(new_side.warnings, SizeIs(1));
}

TEST(VfioNotices, WhoHasReadIsNotWaitedFor) {
  FakeDevice kernel;
  kernel.has = {kErr};
  VfioNotices::Fds blocking;
  blocking[0].Reset(::eventfd(0, EFD_CLOEXEC));
  kernel.eventfds[kErr].Reset(::dup(blocking[0].get()));
  Holder holder(kernel, std::move(blocking));
  ASSERT_THAT(holder.notices->Release(), IsOk());
  eventfd_t count = 0;
  EXPECT_NE(::eventfd_read(kernel.eventfds[kErr].get(), &count), 0) << "would stand still";
  EXPECT_EQ(errno, EAGAIN);
}

TEST(VfioNotices, NobodyIsCalledOnceItIsGone) {
  FakeDevice kernel;
  Holder holder(kernel);
  ASSERT_THAT(holder.notices->Release(), IsOk());
  holder.notices.reset();
  kernel.Signal(kErr);
  kernel.Signal(kReq);
  EXPECT_FALSE(holder.loop->RunOnce(absl::ZeroDuration()));
}

}  // namespace
}  // namespace cpr
