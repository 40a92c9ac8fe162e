#include "vmm/options/device_option.h"

#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/temp_folder.h"
#include "vmm/options/options.h"

namespace cpr {
namespace {

using ::testing::ElementsAre;
using Kind = VirtioDeviceConfig::Kind;

constexpr char kNetdev[] = "-netdev tap,id=n,ifname=tap0,script=no,downscript=no ";
constexpr char kDrive[] = "-drive if=none,id=d,file=/d,format=raw ";

absl::StatusOr<Options> Parse(const std::string& line) {
  std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  words.insert(words.end(), {"-kernel", "K"});
  return ParseOptions(words);
}

TEST(DeviceOptionTest, DevicesComeInOrderWithTheirDrivesAndPorts) {
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options options,
      Parse("-drive file=/d,,1,format=raw,if=none,id=d0,readonly=on -device virtio-blk-pci,drive=d0,id=disk,serial=s "
            "-chardev socket,id=qga0,path=q,server=on,wait=off -device virtio-serial -device "
            "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0 -device virtio-rng-pci,addr=0x1f.0"));
  const VirtioPortConfig port = {.name = "org.qemu.guest_agent.0",
                                 .chardev_id = "qga0",
                                 .chardev = {.kind = ChardevConfig::Kind::kSocket, .path = "q", .server = true}};
  EXPECT_THAT(options.devices,
              ElementsAre(
                  VirtioDeviceConfig{
                      .kind = Kind::kBlk, .slot = 1, .id = "disk", .path = "/d,1", .read_only = true, .serial = "s"},
                  VirtioDeviceConfig{.kind = Kind::kSerial, .slot = 2, .ports = {port}},
                  VirtioDeviceConfig{.kind = Kind::kRng, .slot = 31}));
}

TEST(DeviceOptionTest, NodesLieOverNodes) {
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options options,
      Parse("-blockdev driver=file,node-name=f,filename=/d -blockdev raw,node-name=r,file=f,read-only=on -device "
            R"({"driver":"virtio-blk-pci","drive":"r"})"));
  EXPECT_THAT(options.devices,
              ElementsAre(VirtioDeviceConfig{.kind = Kind::kBlk, .slot = 1, .path = "/d", .read_only = true}));
}

// -drive if=virtio, whose devices come last, as in QEMU; and nobody has to say that an image is raw.
TEST(DeviceOptionTest, DrivesBringTheirDevices) {
  CPR_ASSERT_OK_AND_ASSIGN(const Options options,
                           Parse("-drive file=/d,if=virtio -drive file=/e,if=virtio,format=raw,readonly=on "
                                 "-drive file=/f,if=none,id=f -device virtio-blk-pci,drive=f"));
  EXPECT_THAT(options.devices,
              ElementsAre(VirtioDeviceConfig{.kind = Kind::kBlk, .slot = 1, .path = "/f", .probe = true},
                          VirtioDeviceConfig{.kind = Kind::kBlk, .slot = 2, .path = "/d", .probe = true},
                          VirtioDeviceConfig{.kind = Kind::kBlk, .slot = 3, .path = "/e", .read_only = true}));
}

// As QEMU's documentation of the guest agent has it.
TEST(DeviceOptionTest, PortWithoutABusGetsOne) {
  CPR_ASSERT_OK_AND_ASSIGN(const Options options,
                           Parse("-chardev null,id=a -chardev null,id=b -chardev null,id=c "
                                 "-device virtserialport,chardev=a,name=1 -device virtserialport,chardev=b,name=2 "
                                 "-device virtio-serial-pci,id=s -device virtserialport,chardev=c,bus=s.0"));
  ASSERT_EQ(options.devices.size(), 2u);
  EXPECT_EQ(options.devices[0].ports.size(), 2u);
  EXPECT_EQ(options.devices[1].ports.size(), 1u);
}

TEST(DeviceOptionTest, NetworkDevicesHaveTheirTaps) {
  CPR_ASSERT_OK_AND_ASSIGN(const Options options,
                           Parse(absl::StrCat(kNetdev,
                                              "-netdev tap,id=m,fd=7 -device virtio-net-pci,netdev=n -device "
                                              "virtio-net,netdev=m,mac=52-54-00-AB-cd-ef,addr=4")));
  ASSERT_EQ(options.devices.size(), 2u);
  EXPECT_EQ(options.devices[0].net,
            (VirtioNetConfig{.netdev_id = "n", .interface = "tap0", .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56}}));
  EXPECT_EQ(options.devices[1].net,
            (VirtioNetConfig{.netdev_id = "m", .fd = 7, .mac = {0x52, 0x54, 0, 0xab, 0xcd, 0xef}}));
}

TEST(DeviceOptionTest, KernelMayMoveTheFrames) {
  const struct {
    const char* words;
    bool vhost;
    int fd;
  } kCases[] = {{"", false, -1},
                {",vhost=off", false, -1},
                {",vhost=on", true, -1},
                {",vhost=on,vhostfd=9", true, 9},
                {",vhostfd=9", true, 9}};
  for (const auto& c : kCases) {
    CPR_ASSERT_OK_AND_ASSIGN(const Options options,
                             Parse(absl::StrCat("-netdev tap,id=n,fd=7", c.words, " -device virtio-net-pci,netdev=n")));
    ASSERT_EQ(options.devices.size(), 1u);
    EXPECT_EQ(options.devices[0].net.vhost, c.vhost) << c.words;
    EXPECT_EQ(options.devices[0].net.vhost_fd, c.fd) << c.words;
  }
}

TEST(DeviceOptionTest, VfioDevicesShareTheSlotsWithTheOthers) {
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options options,
      Parse(
          "-object iommufd,id=iommufd0 -device vfio-pci,host=0000:00:04.0,id=a,iommufd=iommufd0 -device virtio-rng-pci "
          "-device vfio-pci,host=05:1f.7 -device vfio-pci,host=6:0.0,addr=4,iommufd=iommufd0 "
          R"(-device {"driver":"vfio-pci","host":"ABCD:ef:00.1","addr":"1f"})"));
  EXPECT_THAT(options.devices, ElementsAre(VirtioDeviceConfig{.kind = Kind::kRng, .slot = 2}));
  EXPECT_THAT(options.vfio_devices,
              ElementsAre(VfioDeviceConfig{.slot = 1, .id = "a", .host = "0000:00:04.0", .iommufd = "iommufd0"},
                          VfioDeviceConfig{.slot = 3, .host = "0000:05:1f.7"},
                          VfioDeviceConfig{.slot = 4, .host = "0000:06:00.0", .iommufd = "iommufd0"},
                          VfioDeviceConfig{.slot = 31, .host = "abcd:ef:00.1"}));
}

// An iommufd is not taken for the machine's RAM, nor does it hide which object that is.
TEST(DeviceOptionTest, IommufdsAreNoMemory) {
  constexpr char kDevice[] = "-object iommufd,id=i -device vfio-pci,host=00:04.0,iommufd=i";
  CPR_ASSERT_OK_AND_ASSIGN(const Options implicit, Parse(kDevice));
  EXPECT_FALSE(implicit.memory_backend.has_value());
  CPR_ASSERT_OK_AND_ASSIGN(const Options given,
                           Parse(absl::StrCat("-object memory-backend-ram,id=r,size=1M ", kDevice)));
  EXPECT_EQ(given.memory_backend->id, "r");
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options json,
      Parse(R"(-object {"qom-type":"iommufd","id":"i"} -device {"driver":"vfio-pci","host":"0:4.0","iommufd":"i"})"));
  EXPECT_EQ(json.vfio_devices, implicit.vfio_devices);
}

TEST(DeviceOptionTest, VfioDeviceMayBeNamedByItsFolder) {
  const testing::TempFolder folder;
  const std::string device = folder.File("0000:00:04.0"), link = folder.File("device");
  ASSERT_EQ(::mkdir(device.c_str(), 0700), 0);
  ASSERT_EQ(::symlink(device.c_str(), link.c_str()), 0);
  const std::string by_link = absl::StrCat("-device vfio-pci,sysfsdev=", link);
  for (const std::string& line :
       {absl::StrCat("-device vfio-pci,sysfsdev=", device), absl::StrCat("-device vfio-pci,sysfsdev=", device, "/"),
        by_link, absl::StrCat(by_link, ",host=0:4.0")}) {
    CPR_ASSERT_OK_AND_ASSIGN(const Options options, Parse(line));
    EXPECT_THAT(options.vfio_devices, ElementsAre(VfioDeviceConfig{.slot = 1, .host = "0000:00:04.0"})) << line;
  }
  EXPECT_EQ(Parse(absl::StrCat(by_link, ",host=0:5.0")).status().message(),
            absl::StrCat(by_link, ",host=0:5.0: Property 'vfio-pci.sysfsdev' doesn't take value '", link, "'"));
}

TEST(DeviceOptionTest, RefusesMalformedHostAddresses) {
  for (const std::string address :
       {"", "4", "04.0", "00:04", "00:04.", "00:.0", ":04.0", "00:04.8", "00:20.0", "100:04.0", "10000:00:04.0",
        "0:0000:00:04.0", "00:04.0.0", "00:04.0x", "0x0:04.0", "-1:04.0", "+0:04.0", "g:04.0"}) {
    const std::string option = absl::StrCat("-device vfio-pci,host=", address);
    EXPECT_EQ(Parse(option).status().message(),
              absl::StrCat(option, ": Property 'vfio-pci.host' doesn't take value '", address, "'"));
  }
}

TEST(DeviceOptionTest, RefusesByName) {
  const struct {
    std::string line, message;
  } kCases[] = {
      {"-device e1000", "-device e1000: 'e1000' is not a valid device model name"},
      {"-device virtio-net-pci,netdev=n",
       "-device virtio-net-pci,netdev=n: Property 'virtio-net-device.netdev' can't find value 'n'"},
      {"-device virtio-net-pci", "-device virtio-net-pci: Parameter 'netdev' is missing"},
      {absl::StrCat(kNetdev, "-device virtio-net-pci,netdev=n,mac=1:2:3:4:5:6"),
       "-device virtio-net-pci,netdev=n,mac=1:2:3:4:5:6: Property 'virtio-net-pci.mac' doesn't take value "
       "'1:2:3:4:5:6'"},
      {absl::StrCat(kNetdev, "-device virtio-net-pci,netdev=n -device virtio-net-pci,netdev=n"),
       "-device virtio-net-pci,netdev=n: Property 'virtio-net-device.netdev' can't take value 'n', it's in use"},
      {kNetdev, "netdev n has no peer"},
      {absl::StrCat(kNetdev, "-netdev tap,id=n,fd=3"), "-netdev tap,id=n,fd=3: Duplicate ID 'n' for netdev"},
      {"-netdev user,id=n", "-netdev user,id=n: Parameter 'type' does not accept value 'user'"},
      {"-netdev tap,ifname=t,script=no,downscript=no",
       "-netdev tap,ifname=t,script=no,downscript=no: Parameter 'id' is missing"},
      {"-netdev tap,id=n,ifname=t", "-netdev tap,id=n,ifname=t: scripts are not run here: script=no is needed"},
      {"-netdev tap,id=n,ifname=t,script=no,downscript=/d",
       "-netdev tap,id=n,ifname=t,script=no,downscript=/d: scripts are not run here: downscript=no is needed"},
      {"-netdev tap,id=n,ifname=0123456789abcdef,script=no,downscript=no",
       "-netdev tap,id=n,ifname=0123456789abcdef,script=no,downscript=no: Parameter 'ifname' expects at most 15 bytes"},
      {"-netdev tap,id=n,fd=3,script=no",
       "-netdev tap,id=n,fd=3,script=no: ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and "
       "vhostfds= are invalid with fd="},
      {"-netdev tap,id=n,fd=three", "-netdev tap,id=n,fd=three: File descriptor named 'three' has not been found"},
      {"-netdev tap,id=n,fd=3,vhostfd=x",
       "-netdev tap,id=n,fd=3,vhostfd=x: File descriptor named 'x' has not been found"},
      {"-netdev tap,id=n,fd=3,vhost=off,vhostfd=4",
       "-netdev tap,id=n,fd=3,vhost=off,vhostfd=4: vhostfd(s)= is not valid without vhost"},
      {"-device vfio-pci",
       "-device vfio-pci: No provided host device. Use -device vfio-pci,host=DDDD:BB:DD.F or -device "
       "vfio-pci,sysfsdev=PATH_TO_DEVICE"},
      {"-device vfio-pci,sysfsdev=/nonexistent/0000:00:04.0",
       "-device vfio-pci,sysfsdev=/nonexistent/0000:00:04.0: Property 'vfio-pci.sysfsdev' doesn't take value "
       "'/nonexistent/0000:00:04.0'"},
      {"-device vfio-pci,sysfsdev=/sys",
       "-device vfio-pci,sysfsdev=/sys: Property 'vfio-pci.sysfsdev' doesn't take value '/sys'"},
      {"-device vfio-pci,host=00:04.0,addr=0",
       "-device vfio-pci,host=00:04.0,addr=0: Property 'vfio-pci.addr' doesn't take value '0'"},
      {"-device vfio-pci,host=00:04.0 -device vfio-pci,host=0000:0:4.0",
       "-device vfio-pci,host=0000:0:4.0: vfio 0000:00:04.0: device is already attached"},
      {"-device vfio-pci,host=00:04.0,iommufd=i",
       "-device vfio-pci,host=00:04.0,iommufd=i: Property 'vfio-pci.iommufd' can't find value 'i'"},
      {"-device vfio-pci,host=00:04.0,iommufd=",
       "-device vfio-pci,host=00:04.0,iommufd=: Property 'vfio-pci.iommufd' can't find value ''"},
      {"-object memory-backend-ram,id=r,size=1M -device vfio-pci,host=00:04.0,iommufd=r",
       "-device vfio-pci,host=00:04.0,iommufd=r: Property 'vfio-pci.iommufd' can't find value 'r'"},
      {"-device virtio-rng-pci -device vfio-pci,host=00:04.0,addr=1",
       "-device vfio-pci,host=00:04.0,addr=1: PCI: slot 1 function 0 not available for vfio-pci, in use by "
       "virtio-rng-pci"},
      {"-device vfio-pci,host=00:04.0 -device virtio-rng-pci,addr=1",
       "-device virtio-rng-pci,addr=1: PCI: slot 1 function 0 not available for virtio-rng-pci, in use by vfio-pci"},
      {"-device vfio-pci,host=00:04.0,id=v -device virtio-rng-pci,id=v",
       "-device virtio-rng-pci,id=v: Duplicate device ID 'v'"},
      {"-device virtio-rng-pci,max-bytes=1",
       "-device virtio-rng-pci,max-bytes=1: Property 'virtio-rng-pci.max-bytes' not found"},
      {"-device virtio-blk-pci", "-device virtio-blk-pci: drive property not set"},
      {"-device virtio-blk-pci,drive=d",
       "-device virtio-blk-pci,drive=d: Property 'virtio-blk-device.drive' can't find value 'd'"},
      {absl::StrCat(kDrive, "-device virtio-blk-pci,drive=d -device virtio-blk-pci,drive=d"),
       "-device virtio-blk-pci,drive=d: Drive 'd' is already in use by another device"},
      {kDrive, "drive 'd': nothing uses it"},
      {absl::StrCat(kDrive, kDrive), "-drive if=none,id=d,file=/d,format=raw: Duplicate ID 'd' for drive"},
      {"-drive file=/d,format=raw,if=ide",
       "-drive file=/d,format=raw,if=ide: Parameter 'if' does not accept value 'ide'"},
      {"-drive file=/d,if=none", "-drive file=/d,if=none: Parameter 'id' is missing"},
      {"-drive file=/d,if=virtio,id=d -device virtio-blk-pci,drive=d",
       "-drive file=/d,if=virtio,id=d: Drive 'd' is already in use by another device"},
      {"-drive file=/d,format=qcow2,if=none,id=d",
       "-drive file=/d,format=qcow2,if=none,id=d: Parameter 'format' does not accept value 'qcow2'"},
      {"-drive if=none,id=d,format=raw", "-drive if=none,id=d,format=raw: Parameter 'file' is missing"},
      {"-drive if=none,id=d,format=raw,file=/d,cache=none",
       "-drive if=none,id=d,format=raw,file=/d,cache=none: Parameter 'cache' is unexpected"},
      {"-blockdev qcow2,node-name=n,file=f",
       "-blockdev qcow2,node-name=n,file=f: Parameter 'driver' does not accept value 'qcow2'"},
      {"-blockdev file,node-name=n,filename=f,cache.direct=on",
       "-blockdev file,node-name=n,filename=f,cache.direct=on: Parameter 'cache' is unexpected"},
      {"-blockdev raw,node-name=n,file=f -device virtio-blk-pci,drive=n",
       "-device virtio-blk-pci,drive=n: Cannot find device='' nor node-name='f'"},
      {"-blockdev raw,node-name=n,file=n -device virtio-blk-pci,drive=n",
       "-device virtio-blk-pci,drive=n: Drive 'n' is already in use by another device"},
      {"-device virtserialport,chardev=c",
       "-device virtserialport,chardev=c: Property 'virtserialport.chardev' can't find value 'c'"},
      {"-chardev null,id=c -serial chardev:c -device virtserialport,chardev=c",
       "-device virtserialport,chardev=c: Property 'virtserialport.chardev' can't take value 'c', it's in use"},
      {"-chardev null,id=c -device virtserialport,chardev=c,bus=s.0",
       "-device virtserialport,chardev=c,bus=s.0: Bus 's.0' not found"},
      {"-chardev null,id=c -chardev null,id=e -device virtserialport,chardev=c,name=p -device "
       "virtserialport,chardev=e,name=p",
       "-device virtserialport,chardev=e,name=p: virtio-serial-bus: A port already exists by name p"},
      {"-chardev stdio,id=c -device virtserialport,chardev=c -serial stdio",
       "cannot use stdio by multiple character devices"},
      {"-device virtio-rng-pci,addr=20",
       "-device virtio-rng-pci,addr=20: Property 'virtio-rng-pci.addr' doesn't take value '20'"},
      {"-device virtio-rng-pci -device virtio-serial-pci,addr=1",
       "-device virtio-serial-pci,addr=1: PCI: slot 1 function 0 not available for virtio-serial-pci, in use by "
       "virtio-rng-pci"},
      {"-device virtio-rng-pci,id=r -device virtio-rng-pci,id=r",
       "-device virtio-rng-pci,id=r: Duplicate device ID 'r'"},
  };
  for (const auto& c : kCases) {
    const auto options = Parse(c.line);
    ASSERT_FALSE(options.ok()) << c.line;
    EXPECT_EQ(options.status().message(), c.message) << c.line;
  }
}

TEST(DeviceOptionTest, SlotsEnd) {
  std::string line;
  for (int i = 1; i < 32; ++i) line += "-device virtio-rng-pci ";
  CPR_ASSERT_OK_AND_ASSIGN(const Options full, Parse(line));
  EXPECT_EQ(full.devices.back().slot, 31u);
  EXPECT_EQ(Parse(absl::StrCat(line, "-device virtio-rng-pci")).status().message(),
            "-device virtio-rng-pci: PCI: no slot/function available for virtio-rng-pci, all in use or reserved");
  EXPECT_EQ(Parse(absl::StrCat(line, "-device vfio-pci,host=0:4.0")).status().message(),
            "-device vfio-pci,host=0:4.0: PCI: no slot/function available for vfio-pci, all in use or reserved");
}

}  // namespace
}  // namespace cpr
