#include "libcpr/preserve/fd_table.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

UniqueFd Eventfd(int flags = 0) { return UniqueFd(::eventfd(0, EFD_CLOEXEC | flags)); }

UniqueFd Memfd(uint64_t size_bytes, int seals = F_SEAL_SHRINK | F_SEAL_GROW) {
  UniqueFd fd(::memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

// A table of two fds, and copies of its fds as a receiver gets them.
struct Sent {
  Sent() {
    EXPECT_THAT(table.Add("ram0", 0, FdKind::kMemfd, Memfd(4096)), IsOk());
    EXPECT_THAT(table.Add("vcpu.kick", 3, FdKind::kEventfd, Eventfd(EFD_NONBLOCK)), IsOk());
    manifest = table.Manifest();
    for (const int fd : table.fds()) fds.emplace_back(::dup(fd));
  }
  FdTable table;
  v1::FdManifest manifest;
  std::vector<UniqueFd> fds;
};

TEST(FdTableTest, WhatGoesOverComesOutByNameAndKind) {
  Sent sent;
  CPR_ASSERT_OK_AND_ASSIGN(FdTable table, FdTable::FromManifest(sent.manifest, std::move(sent.fds)));
  CPR_ASSERT_OK_AND_ASSIGN(const UniqueFd kick, table.Take("vcpu.kick", 3, FdKind::kEventfd));
  EXPECT_NE(::fcntl(kick.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(kick.get(), F_GETFD) & FD_CLOEXEC, 0) << "dup without CLOEXEC came in";
  EXPECT_THAT(table.names(), ElementsAre("ram0/0 (memfd)"));
}

TEST(FdTableTest, TakeNamesWhatIsMissingAndWhatIsOfAnotherKind) {
  Sent sent;
  EXPECT_THAT(sent.table.Take("ram1", 0, FdKind::kMemfd),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("fd 'ram1' instance 0")));
  EXPECT_THAT(
      sent.table.Take("ram0", 0, FdKind::kTap),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'ram0' instance 0 is a memfd, a tap is needed")));
  EXPECT_TRUE(sent.table.Has("ram0", 0)) << "a refused Take lost the fd";
}

TEST(FdTableTest, AddRefusesDuplicatesWrongKindsAndEmptyNames) {
  Sent sent;
  EXPECT_THAT(sent.table.Add("ram0", 0, FdKind::kEventfd, Eventfd()),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("'ram0'")));
  EXPECT_THAT(sent.table.Add("x", 0, FdKind::kTap, Eventfd()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("'x' instance 0: is not a tap but anon_inode:[eventfd]")));
  EXPECT_THAT(sent.table.Add("", 0, FdKind::kEventfd, Eventfd()), StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(sent.table.AddDup("y", 0, FdKind::kEventfd, -1),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'y'")));
  EXPECT_THAT(sent.table.Add("z", 0, static_cast<FdKind>(99), Eventfd()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kind 99")));
}

TEST(FdTableTest, CountsMustAgree) {
  Sent sent;
  sent.fds.pop_back();
  EXPECT_THAT(FdTable::FromManifest(sent.manifest, std::move(sent.fds)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("lists 2 fds, 1 came")));
  Sent more;
  more.fds.push_back(Eventfd());
  EXPECT_THAT(FdTable::FromManifest(more.manifest, std::move(more.fds)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("lists 2 fds, 3 came")));
}

TEST(FdTableTest, SwappedFdsAreRefusedByName) {
  Sent sent;
  std::swap(sent.fds[0], sent.fds[1]);
  EXPECT_THAT(FdTable::FromManifest(sent.manifest, std::move(sent.fds)),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("'ram0' instance 0: is not a memfd but anon_inode:[eventfd]")));
}

TEST(FdTableTest, AClosedDescriptorIsAnError) {
  Sent sent;
  sent.fds[0].Reset();
  EXPECT_THAT(FdTable::FromManifest(sent.manifest, std::move(sent.fds)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("'ram0'")));
}

TEST(FdTableTest, AMemfdOfAnotherSizeOrWithFewerSealsIsRefused) {
  Sent sent;
  sent.fds[0] = Memfd(8192);
  EXPECT_THAT(FdTable::FromManifest(sent.manifest, std::move(sent.fds)),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("'ram0' instance 0: is a memfd of 8192 bytes, the manifest says 4096")));
  Sent other;
  other.fds[0] = Memfd(4096, F_SEAL_GROW);
  EXPECT_THAT(FdTable::FromManifest(other.manifest, std::move(other.fds)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("seals")));
}

TEST(FdTableTest, EveryMalformedManifestIsRefused) {
  const auto refused = [](auto change, const std::string& why) {
    Sent sent;
    change(sent.manifest);
    EXPECT_THAT(FdTable::FromManifest(sent.manifest, std::move(sent.fds)),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(why)));
  };
  refused([](v1::FdManifest& m) { m.mutable_entries(0)->clear_name(); }, "empty");
  refused([](v1::FdManifest& m) { m.mutable_entries(0)->set_name(std::string(256, 'x')); }, "too long");
  refused([](v1::FdManifest& m) { *m.mutable_entries(1) = m.entries(0); }, "'ram0' instance 0 twice");
  refused([](v1::FdManifest& m) { m.mutable_entries(1)->set_fd_index(0); }, "is taken");
  refused([](v1::FdManifest& m) { m.mutable_entries(1)->set_fd_index(2); }, "past the end");
  refused([](v1::FdManifest& m) { m.mutable_entries(1)->set_fd_index(0xffffffff); }, "past the end");
  refused([](v1::FdManifest& m) { m.mutable_entries(1)->set_kind(v1::FD_KIND_UNSPECIFIED); }, "unknown kind 0");
  refused([](v1::FdManifest& m) { m.mutable_entries(1)->set_kind(static_cast<v1::FdKind>(99)); }, "unknown kind 99");
  refused([](v1::FdManifest& m) { m.clear_entries(); }, "lists 0 fds");
}

TEST(FdTableTest, OrderOfArrivalDoesNotMatterButIndicesDo) {
  Sent sent;
  sent.manifest.mutable_entries()->SwapElements(0, 1);
  EXPECT_THAT(FdTable::FromManifest(sent.manifest, std::move(sent.fds)), IsOk());
}

TEST(FdTableTest, ThereIsALimit) {
  v1::FdManifest manifest;
  for (uint32_t i = 0; i <= FdTable::kMaxEntries; ++i) manifest.add_entries()->set_instance(i);
  EXPECT_THAT(ValidateFdManifest(manifest, FdTable::kMaxEntries + 1),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("are the limit")));
}

TEST(FdKindTest, EachKindKnowsItsOwn) {
  int pipe_fds[2], sockets[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  const UniqueFd owned[] = {UniqueFd(pipe_fds[0]), UniqueFd(pipe_fds[1]), UniqueFd(sockets[0]), UniqueFd(sockets[1])};
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&(const sockaddr&)sockaddr{.sa_family = AF_UNIX}),
                   sizeof(sa_family_t)),
            0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const UniqueFd pty(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC)), file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const UniqueFd memfd = Memfd(4096), eventfd = Eventfd();
  const std::pair<FdKind, int> kinds[] = {{FdKind::kMemfd, memfd.get()},       {FdKind::kFile, file.get()},
                                          {FdKind::kEventfd, eventfd.get()},   {FdKind::kSocket, sockets[0]},
                                          {FdKind::kListener, listener.get()}, {FdKind::kTty, pty.get()},
                                          {FdKind::kPipe, pipe_fds[0]},        {FdKind::kCharDevice, null.get()}};
  for (const auto& [kind, kind_fd] : kinds) {
    for (const auto& [other, fd] : kinds) {
      const bool both_char = kind == FdKind::kCharDevice && other == FdKind::kTty;  // a tty is one as well
      EXPECT_EQ(CheckFdKind(fd, kind).ok(), kind == other || both_char)
          << FdKindName(kind) << " asked of a " << FdKindName(other);
    }
  }
  for (const FdKind kind : {FdKind::kTap, FdKind::kVhost, FdKind::kVfioDevice, FdKind::kVfioGroup,
                            FdKind::kVfioContainer, FdKind::kIommufd}) {
    for (const auto& [other, fd] : kinds)
      EXPECT_FALSE(CheckFdKind(fd, kind).ok()) << FdKindName(kind) << " asked of a " << FdKindName(other);
  }
}

TEST(FdKindTest, TunIsATap) {
  const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!tun.ok()) GTEST_SKIP() << "no /dev/net/tun";
  EXPECT_THAT(CheckFdKind(tun.get(), FdKind::kTap), IsOk());
}

}  // namespace
}  // namespace cpr
