#include "vmm/boot/bzimage.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kRamBytes = 8 << 20;
constexpr uint64_t kPreferred = 2 << 20;
constexpr uint32_t kInitBytes = 1 << 20;

class Ram {
 public:
  GuestRam Access() {
    return [this](uint64_t gpa, uint64_t size) -> absl::StatusOr<absl::Span<uint8_t>> {
      if (gpa > bytes_.size() || size > bytes_.size() - gpa) return absl::OutOfRangeError("not RAM");
      return absl::MakeSpan(bytes_).subspan(gpa, size);
    };
  }
  template <typename T>
  T At(uint64_t gpa) const {
    T value;
    std::memcpy(&value, &bytes_.at(gpa), sizeof(T));
    return value;
  }
  // Up to a zero byte, or the end of RAM.
  std::string Text(uint64_t gpa) const {
    const auto begin = bytes_.begin() + static_cast<std::ptrdiff_t>(gpa);
    return std::string(begin, std::find(begin, bytes_.end(), 0));
  }

 private:
  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(kRamBytes, 0xee);
};

template <typename T>
void Put(std::string* bytes, size_t offset, T value) {
  std::memcpy(bytes->data() + offset, &value, sizeof(value));
}

// One sector of setup beside the boot sector, and a system that begins with "system".
std::string Image() {
  std::string image(2 * 512, '\0');
  Put<uint8_t>(&image, 0x1f1, 1);
  Put<uint32_t>(&image, 0x1f4, 2);
  Put<uint16_t>(&image, 0x1fe, 0xaa55);
  Put<uint8_t>(&image, 0x201, 0x6a);
  image.replace(0x202, 4, "HdrS");
  Put<uint16_t>(&image, 0x206, 0x020f);
  Put<uint32_t>(&image, 0x22c, 0x7fffffff);
  Put<uint32_t>(&image, 0x230, 1 << 20);
  Put<uint8_t>(&image, 0x234, 1);
  Put<uint16_t>(&image, 0x236, 1);
  Put<uint32_t>(&image, 0x238, 255);
  Put<uint64_t>(&image, 0x258, kPreferred);
  Put<uint32_t>(&image, 0x260, kInitBytes);
  return image + "system" + std::string(26, '\0');
}

BootRequest RequestOf(const std::string& image) {
  BootRequest request;
  request.kernel_name = "bzImage";
  request.kernel = image;
  request.ram = {{0, kRamBytes}};
  return request;
}

absl::Status ErrorOf(const BootRequest& request) {
  Ram ram;
  return LoadBzImage(request, ram.Access()).status();
}

template <typename T>
absl::Status ErrorWith(size_t offset, T value) {
  std::string image = Image();
  Put(&image, offset, value);
  return ErrorOf(RequestOf(image));
}

TEST(BzImage, IsLoadedWithZeroPageCmdlineAndInitrd) {
  const std::string image = Image(), initrd = "archive";
  BootRequest request = RequestOf(image);
  request.cmdline = "console=ttyS0";
  request.initrd_name = "initrd";
  request.initrd = initrd;
  request.rsdp_gpa = 0xe0000;
  request.reserved = {{0x9fc00, 0x60400}, {0xe0000000, 0x100000}};
  Ram ram;
  CPR_ASSERT_OK_AND_ASSIGN(const BzImageEntry entry, LoadBzImage(request, ram.Access()));
  EXPECT_EQ(entry.entry_gpa, kPreferred + 0x200);
  EXPECT_EQ(ram.Text(kPreferred), "system");
  const uint64_t zero_page = entry.zero_page_gpa;
  EXPECT_EQ(ram.At<uint64_t>(zero_page + 0x70), 0xe0000u);
  EXPECT_EQ(ram.Text(ram.At<uint32_t>(zero_page + 0x228)), "console=ttyS0");
  EXPECT_EQ(ram.At<uint32_t>(zero_page + 0x21c), initrd.size());
  EXPECT_TRUE(absl::StartsWith(ram.Text(ram.At<uint32_t>(zero_page + 0x218)), "archive"));
  EXPECT_EQ(ram.At<uint8_t>(zero_page + 0x1e8), 4);
  EXPECT_EQ(ram.At<uint64_t>(zero_page + 0x2d0 + 20), 0x9fc00u);
  EXPECT_EQ(ram.At<uint32_t>(zero_page + 0x2d0 + 20 + 16), 2u);
  EXPECT_EQ(ram.At<uint64_t>(entry.page_tables_gpa + 3 * 4096), (uint64_t{1} << 30) + 0x83);
}

TEST(BzImage, IsMovedWhereItMustBe) {
  std::string image = Image();
  Put<uint64_t>(&image, 0x258, uint64_t{1} << 30);
  Ram ram;
  CPR_ASSERT_OK_AND_ASSIGN(const BzImageEntry entry, LoadBzImage(RequestOf(image), ram.Access()));
  EXPECT_EQ(entry.entry_gpa, (1u << 20) + 0x200);
  Put<uint8_t>(&image, 0x234, 0);
  EXPECT_THAT(ErrorOf(RequestOf(image)), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("low RAM ends")));
}

TEST(BzImage, BadImagesAreRefusedByName) {
  EXPECT_THAT(ErrorWith<uint32_t>(0x202, 0), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2.12")));
  EXPECT_THAT(ErrorWith<uint16_t>(0x206, 0x020a),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kernel 'bzImage': boot protocol 2.10")));
  EXPECT_THAT(ErrorWith<uint16_t>(0x236, 0), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("64-bit entry")));
  EXPECT_THAT(ErrorWith<uint32_t>(0x1f4, 1000), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is cut")));
  EXPECT_THAT(ErrorWith<uint8_t>(0x1f1, 200), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is cut")));
  EXPECT_THAT(ErrorWith<uint8_t>(0x201, 0), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("setup header")));
  EXPECT_THAT(ErrorWith<uint32_t>(0x260, 0x7fffffff), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("RAM")));
}

TEST(BzImage, WhatDoesNotFitIsRefused) {
  const std::string image = Image(), large(kRamBytes, 'x');
  BootRequest request = RequestOf(image);
  request.cmdline = std::string(256, 'x');
  EXPECT_THAT(ErrorOf(request), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most 255")));
  request.cmdline.clear();
  request.initrd_name = "initrd";
  request.initrd = large;
  EXPECT_THAT(ErrorOf(request), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("initrd 'initrd'")));
}

TEST(BzImage, CutAnywhereIsAnError) {
  const std::string image = Image();
  for (size_t size = 0x200; size < image.size() - 15; ++size) {
    EXPECT_FALSE(ErrorOf(RequestOf(image.substr(0, size))).ok()) << size;
  }
  EXPECT_TRUE(IsLinuxImage(image));
  EXPECT_FALSE(IsLinuxImage(image.substr(0, 0x1ff)));
}

TEST(MemoryMap, ReservedRangesAreCutOut) {
  BootRequest request;
  request.ram = {{0, 0x100000}, {0x200000, 0x100000}};
  request.reserved = {{0x80000, 0x10000}, {0x2f0000, 0x20000}};
  EXPECT_THAT(MemoryMap(request), ElementsAre(MemoryMapEntry{0, 0x80000, 1}, MemoryMapEntry{0x80000, 0x10000, 2},
                                              MemoryMapEntry{0x90000, 0x70000, 1}, MemoryMapEntry{0x200000, 0xf0000, 1},
                                              MemoryMapEntry{0x2f0000, 0x20000, 2}));
}

}  // namespace
}  // namespace cpr
