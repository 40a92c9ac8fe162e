#include "vmm/virtio/blk.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "vmm/virtio/fake_guest.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeDriver;
using ::cpr::testing::FakeGuest;
using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr uint64_t kSectors = 8, kHeaderGpa = 0x20000, kStatusGpa = 0x20020, kDataGpa = 0x21000;
constexpr uint8_t kUntouched = 0xee;

class BlkTest : public ::testing::Test {
 protected:
  BlkTest() { std::ofstream(path_) << std::string(kSectors * 512, 'a'); }

  std::unique_ptr<VirtioBlk> Create(bool read_only = false) {
    auto image = DiskImage::Create({path_, read_only});
    EXPECT_TRUE(image.ok()) << image.status();
    return *VirtioBlk::Create(&memory_, *std::move(image), "serial-that-is-longer-than-20");
  }
  static void AddRequest(FakeGuest& guest, uint32_t type, uint64_t sector, std::vector<FakeDriver::Buffer> data) {
    FakeDriver& queue = guest.queue(0);
    queue.WriteValue(kHeaderGpa, virtio_blk_outhdr{type, 0, sector});
    queue.WriteValue(kStatusGpa, kUntouched);
    std::vector<FakeDriver::Buffer> buffers = {{kHeaderGpa, 16, false}};
    buffers.insert(buffers.end(), data.begin(), data.end());
    buffers.push_back({kStatusGpa, 1, true});
    queue.Add(buffers);
  }
  // The status byte, and how much was written.
  static std::pair<int, uint32_t> Request(FakeGuest& guest, uint32_t type, uint64_t sector,
                                          std::vector<FakeDriver::Buffer> data) {
    AddRequest(guest, type, sector, std::move(data));
    guest.Kick(0);
    const uint32_t written = guest.AwaitUsed(0).second;
    return {static_cast<uint8_t>(guest.queue(0).Read(kStatusGpa, 1)[0]), written};
  }
  std::string FileContents() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const testing::TempFolder folder_;
  const std::string path_ = folder_.File("disk.raw");
  const GuestMemory memory_ = testing::CreateTestMemory();
};

TEST_F(BlkTest, ReadsWritesAndFlushes) {
  const auto blk = Create();
  FakeGuest guest(&memory_, blk.get());
  blk->Resume();
  guest.BringUp();
  guest.queue(0).Write(kDataGpa, std::string(512, 'x') + std::string(512, 'y'));
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_OUT, 2, {{kDataGpa, 700, false}, {kDataGpa + 700, 324, false}}),
            std::make_pair(VIRTIO_BLK_S_OK, 1u));
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_FLUSH, 0, {}), std::make_pair(VIRTIO_BLK_S_OK, 1u));
  EXPECT_EQ(FileContents(), std::string(1024, 'a') + std::string(512, 'x') + std::string(512, 'y') +
                                std::string((kSectors - 4) * 512, 'a'));
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_IN, 3, {{kDataGpa + 4096, 1024, true}}),
            std::make_pair(VIRTIO_BLK_S_OK, 1025u));
  EXPECT_EQ(guest.queue(0).Read(kDataGpa + 4096, 1024), std::string(512, 'y') + std::string(512, 'a'));
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_GET_ID, 0, {{kDataGpa, 20, true}}), std::make_pair(VIRTIO_BLK_S_OK, 21u));
  EXPECT_EQ(guest.queue(0).Read(kDataGpa, 20), "serial-that-is-longe");
}

TEST_F(BlkTest, ConfigTellsTheSize) {
  const auto blk = Create();
  uint64_t capacity = 0;
  blk->ReadConfig(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(&capacity), 8));
  EXPECT_EQ(capacity, kSectors);
  uint32_t beyond = 1;
  blk->ReadConfig(4096, absl::MakeSpan(reinterpret_cast<uint8_t*>(&beyond), 4));
  EXPECT_EQ(beyond, 0u);
}

TEST_F(BlkTest, WhatCannotBeDoneIsAnErrorOfTheRequest) {
  const auto blk = Create();
  FakeGuest guest(&memory_, blk.get());
  blk->Resume();
  guest.BringUp();
  const auto error = std::make_pair(VIRTIO_BLK_S_IOERR, 1u);
  for (const uint64_t sector : {kSectors, kSectors - 1, uint64_t{1} << 55, ~uint64_t{0}}) {
    EXPECT_EQ(Request(guest, VIRTIO_BLK_T_IN, sector, {{kDataGpa, 1024, true}}), error) << sector;
    EXPECT_EQ(Request(guest, VIRTIO_BLK_T_OUT, sector, {{kDataGpa, 1024, false}}), error) << sector;
  }
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_IN, 0, {{kDataGpa, 511, true}}), error);
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_OUT, 0, {{kDataGpa, 513, false}}), error);
  EXPECT_EQ(Request(guest, 77, 0, {{kDataGpa, 512, true}}), std::make_pair(VIRTIO_BLK_S_UNSUPP, 1u));
  EXPECT_EQ(FileContents(), std::string(kSectors * 512, 'a'));
  EXPECT_EQ(blk->status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

TEST_F(BlkTest, RequestsWithoutHeaderOrStatusNeedReset) {
  for (const std::vector<FakeDriver::Buffer>& buffers : std::vector<std::vector<FakeDriver::Buffer>>{
           {{kHeaderGpa, 15, false}, {kStatusGpa, 1, true}}, {{kHeaderGpa, 16, false}}}) {
    const auto blk = Create();
    FakeGuest guest(&memory_, blk.get());
    guest.BringUp();
    guest.queue(0).Add(buffers);
    blk->Resume();
    blk->Serve(0);
    blk->Quiesce();
    EXPECT_NE(blk->status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
  }
}

TEST_F(BlkTest, ReadOnlyDiskStaysAsItIs) {
  const auto blk = Create(/*read_only=*/true);
  EXPECT_NE(blk->features() & 1 << VIRTIO_BLK_F_RO, 0u);
  FakeGuest guest(&memory_, blk.get());
  blk->Resume();
  guest.BringUp();
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_OUT, 0, {{kDataGpa, 512, false}}).first, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_FLUSH, 0, {}).first, VIRTIO_BLK_S_OK);
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_IN, 0, {{kDataGpa, 512, true}}).first, VIRTIO_BLK_S_OK);
}

TEST_F(BlkTest, RequestsOfOneVmmAreGoneOnWithByAnother) {
  auto old_side = Create();
  VirtioBlkState state;
  UniqueFd fd;
  FakeGuest guest(&memory_, old_side.get());
  old_side->Resume();
  guest.BringUp();
  EXPECT_EQ(Request(guest, VIRTIO_BLK_T_FLUSH, 0, {}).first, VIRTIO_BLK_S_OK);
  old_side->Quiesce();
  AddRequest(guest, VIRTIO_BLK_T_IN, 1, {{kDataGpa, 512, true}});
  guest.Kick(0);  // nobody listens any more
  state = old_side->Save();
  CPR_ASSERT_OK_AND_ASSIGN(fd, DupFd(old_side->image().fd()));

  CPR_ASSERT_OK_AND_ASSIGN(DiskImage image, DiskImage::Adopt({path_, false}, std::move(fd)));
  CPR_ASSERT_OK_AND_ASSIGN(const auto new_side, VirtioBlk::Create(&memory_, std::move(image), ""));
  ASSERT_THAT(new_side->Restore(state), IsOk());
  EXPECT_EQ(guest.queue(0).TakeUsed(), std::nullopt);
  new_side->Resume();
  new_side->Quiesce();
  new_side->Resume();
  new_side->Serve(0);
  new_side->Quiesce();
  EXPECT_EQ(guest.queue(0).TakeUsed(), std::make_pair(0u + 2, 513u));
  EXPECT_EQ(guest.queue(0).TakeUsed(), std::nullopt) << "done once only";
}

TEST_F(BlkTest, ResetWaitsForWhatIsUnderWay) {
  const auto blk = Create();
  FakeGuest guest(&memory_, blk.get());
  blk->Resume();
  for (int i = 0; i < 50; ++i) {
    guest.BringUp();
    FakeGuest again(&memory_, blk.get());
    again.queue(0).WriteAvailableIndex(0);
    again.BringUp();
    AddRequest(again, VIRTIO_BLK_T_IN, 0, {{kDataGpa, 512, true}});
    again.Kick(0);
    blk->WriteStatus(0);
    again.queue(0).WriteAvailableIndex(0);
  }
}

TEST_F(BlkTest, ImageIsLockedUntilTheLastDuplicateOfItsFdIsGone) {
  UniqueFd kept;
  {
    CPR_ASSERT_OK_AND_ASSIGN(const DiskImage image, DiskImage::Create({path_, false}));
    CPR_ASSERT_OK_AND_ASSIGN(kept, DupFd(image.fd()));
    const auto refused = StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("Is another process using"));
    EXPECT_THAT(DiskImage::Create({path_, false}).status(), refused);
    EXPECT_THAT(DiskImage::Create({path_, true}).status(), refused);
  }
  EXPECT_FALSE(DiskImage::Create({path_, false}).ok());
  CPR_ASSERT_OK_AND_ASSIGN(DiskImage adopted, DiskImage::Adopt({path_, false}, std::move(kept)));
  EXPECT_FALSE(DiskImage::Create({path_, false}).ok());
  adopted = *DiskImage::Adopt({path_, true}, *OpenFile(path_, O_RDONLY));
  EXPECT_THAT(DiskImage::Create({path_, false}).status(), IsOk());
}

TEST_F(BlkTest, ReadersShareAnImage) {
  CPR_ASSERT_OK_AND_ASSIGN(const DiskImage first, DiskImage::Create({path_, true}));
  EXPECT_THAT(DiskImage::Create({path_, true}).status(), IsOk());
  EXPECT_FALSE(DiskImage::Create({path_, false}).ok());
}

TEST_F(BlkTest, AnotherFormatIsRefusedUnlessItIsCalledRaw) {
  std::fstream(path_) << "QFI\xfb";
  EXPECT_THAT(DiskImage::Create({path_, false, /*probe=*/true}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(path_ + ": looks like a qcow2 image")));
  EXPECT_THAT(DiskImage::Create({path_, false}).status(), IsOk());
  std::fstream(path_) << "QFI ";
  EXPECT_THAT(DiskImage::Create({path_, false, /*probe=*/true}).status(), IsOk());
}

TEST_F(BlkTest, WhatIsNoImageIsRefused) {
  EXPECT_THAT(DiskImage::Create({folder_.File("none"), false}).status(),
              StatusIs(absl::StatusCode::kNotFound,
                       absl::StrCat("Could not open '", folder_.File("none"), "': No such file or directory")));
  EXPECT_THAT(DiskImage::Create({"/dev/null", false}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/dev/null")));
  std::ofstream(path_, std::ios::app) << "x";
  EXPECT_THAT(DiskImage::Create({path_, false}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sectors")));
  EXPECT_THAT(DiskImage::Adopt({path_, false}, *OpenFile("/dev/null", O_RDWR)).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("neither")));
  std::filesystem::resize_file(path_, 512);
  EXPECT_THAT(DiskImage::Adopt({path_, false}, *OpenFile(path_, O_RDONLY)).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("something else")));
}

}  // namespace
}  // namespace cpr
