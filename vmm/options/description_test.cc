#include "vmm/options/description.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/testing/section_conformance.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Options Parse(const std::string& line) {
  auto options = ParseOptions(std::vector<std::string>(absl::StrSplit(line, ' ', absl::SkipEmpty())));
  EXPECT_THAT(options, IsOk()) << line;
  return options.ok() ? *options : Options();
}

constexpr char kBoot[] =
    "-kernel /k -append quiet -smp 2 -object memory-backend-file,id=ram0,size=64M,mem-path=/ram,share=on -serial "
    "file:/s "
    "-uuid 00000000-0000-0000-0000-000000000001 -name old";

constexpr char kDevices[] =
    "-drive if=none,id=d0,file=/d,format=raw -device virtio-blk-pci,drive=d0,addr=4 -chardev null,id=c0 -device "
    "virtserialport,chardev=c0,name=p0 -device virtio-rng-pci,id=r ";

constexpr char kVfio[] =
    "-object iommufd,id=i -device vfio-pci,host=0:4.0,id=v,iommufd=i -device virtio-rng-pci -device "
    "vfio-pci,host=0:5.0 ";

TEST(DescriptionTest, FillsInTheDefaults) {
  const MachineDescription machine = DescribeMachine(Parse("-kernel /k"));
  EXPECT_EQ(machine.irqchip, IrqchipKind::kSplit);
  EXPECT_EQ(machine.vcpus, 1u);
  EXPECT_EQ(machine.devices, std::vector<VirtioDeviceConfig>());
  EXPECT_EQ(machine.vfio_devices, std::vector<VfioDeviceConfig>());
  EXPECT_EQ(machine.memory_bytes, 128u << 20);
  EXPECT_EQ(*machine.memory,
            (MemoryBackend{.kind = MemoryBackendKind::kMemfd, .id = "pc.ram", .size_bytes = 128 << 20, .share = true}))
      << "implicit RAM is shared by default";
  EXPECT_FALSE(machine.serial->none);
  EXPECT_TRUE(DescribeMachine(Parse("-kernel /k -nodefaults")).serial->none);
  EXPECT_FALSE(DescribeMachine(Parse("-kernel /k -machine aux-ram-share=off")).memory->share);
}

TEST(DescriptionTest, PathsBecomeAbsolute) {
  const MachineDescription machine =
      DescribeMachine(Parse("-kernel k -object memory-backend-file,id=r,size=1M,mem-path=./ram -serial file:log"));
  EXPECT_TRUE(absl::StartsWith(machine.serial->config.path, "/")) << machine.serial->config.path;
  EXPECT_TRUE(absl::StartsWith(*machine.kernel, "/")) << *machine.kernel;
  EXPECT_TRUE(absl::StartsWith(machine.memory->mem_path, "/")) << machine.memory->mem_path;
  EXPECT_TRUE(absl::EndsWith(machine.memory->mem_path, "/ram") && !absl::StrContains(machine.memory->mem_path, "/./"));
}

TEST(DescriptionTest, SurvivesItsProto) {
  for (const std::string& line :
       {std::string(kBoot), absl::StrCat(kDevices, "-kernel /k"), absl::StrCat(kVfio, "-kernel /k"),
        std::string("-kernel /k -nodefaults -machine kernel-irqchip=on")}) {
    MachineDescription machine = DescribeMachine(Parse(line));
    CPR_ASSERT_OK_AND_ASSIGN(const MachineDescription again,
                             MachineDescriptionFromProto(MachineDescriptionToProto(machine)));
    EXPECT_EQ(again, machine) << line;
  }
}

// An older program's state lists none, and it can read the state of a machine that has none.
TEST(DescriptionTest, MachineWithoutVfioDevicesIsWrittenAsItWasBeforeThereWereAny) {
  const MachineDescription machine = DescribeMachine(Parse(absl::StrCat(kVfio, "-kernel /k")));
  v1::MachineDescription proto = MachineDescriptionToProto(machine);
  EXPECT_EQ(proto.devices().vfio_size(), 2);
  proto.mutable_devices()->clear_vfio();
  CPR_ASSERT_OK_AND_ASSIGN(const MachineDescription older, MachineDescriptionFromProto(proto));
  EXPECT_EQ(older.devices, machine.devices);
  EXPECT_EQ(older.vfio_devices, std::vector<VfioDeviceConfig>());
  EXPECT_EQ(MachineDescriptionToProto(older).SerializeAsString(), proto.SerializeAsString());
}

// Also what a file the user may have moved, or another log for the serial port, does not make another machine.
TEST(DescriptionTest, ComparesOnlyWhatWasGiven) {
  const MachineDescription saved = DescribeMachine(Parse(kBoot));
  for (const std::string line :
       {"", "-smp 2", "-m 64M", "-machine pc", "-machine q35,aux-ram-share=off", "-name new", "-serial null",
        "-object memory-backend-file,id=ram0,size=64M,mem-path=/x/../ram,share=on,prealloc=on", "-nodefaults", "-S"}) {
    EXPECT_THAT(DescribeDifferences(DescribeGiven(Parse("-incoming defer " + line)), saved), IsEmpty()) << line;
  }
}

TEST(DescriptionTest, NamesEachDifference) {
  const MachineDescription saved = DescribeMachine(Parse(kBoot));
  const struct {
    std::string line;
    std::string difference;
  } kCases[] = {
      {"-smp 4", "-smp is 4, the machine has 2"},
      {"-m 1M", "-m is 1048576 bytes, the machine has 67108864 bytes"},
      {"-machine kernel-irqchip=on", "-machine kernel-irqchip is on, the machine has split"},
      {"-kernel /l", "-kernel is '/l', the machine has '/k'"},
      {"-kernel /k -initrd /i", "-initrd is '/i', the machine has ''"},
      {"-kernel /k -append x", "-append is 'x', the machine has 'quiet'"},
      {"-serial none", "-serial is none, the machine has a port"},
      {"-uuid 00000000-0000-0000-0000-000000000002",
       "-uuid is '00000000-0000-0000-0000-000000000002', the machine has '00000000-0000-0000-0000-000000000001'"},
      {"-object memory-backend-file,id=r,size=64M,mem-path=/ram,share=on", "-object id is 'r', the machine has 'ram0'"},
      {"-object memory-backend-file,id=ram0,size=64M,mem-path=/ram", "-object ram0: share is off, the machine has on"},
      {"-object memory-backend-file,id=ram0,size=64M,mem-path=/other,share=on",
       "-object ram0: mem-path is '/other', the machine has '/ram'"},
      {"-object memory-backend-file,id=ram0,size=64M,mem-path=/ram,share=on,align=2M",
       "-object ram0: align is 2097152, the machine has 0"},
  };
  for (const auto& c : kCases) {
    EXPECT_THAT(DescribeDifferences(DescribeGiven(Parse("-incoming defer " + c.line)), saved),
                ElementsAre(c.difference));
  }
  const MachineDescription implicit = DescribeMachine(Parse("-kernel /k"));
  EXPECT_THAT(DescribeDifferences(DescribeGiven(Parse("-incoming defer -machine aux-ram-share=off")), implicit),
              ElementsAre("-machine aux-ram-share is off, the machine has on"));
  EXPECT_THAT(
      DescribeDifferences(
          DescribeGiven(Parse("-incoming defer -object memory-backend-ram,id=pc.ram,size=128M,share=on")), implicit),
      ElementsAre("-object pc.ram: type is memory-backend-ram, the machine has memory-backend-memfd"));
}

TEST(DescriptionTest, ComparesDevicesByTheirSlots) {
  const MachineDescription saved = DescribeMachine(Parse(absl::StrCat(kDevices, "-kernel /k")));
  const struct {
    std::string line;
    std::vector<std::string> differences;
  } kCases[] = {
      {"", {}},
      {kDevices, {}},
      {"-device virtio-rng-pci,addr=2 -chardev pty,id=x -device virtserialport,chardev=x,name=p0 "
       "-blockdev file,node-name=n,filename=/./d -device virtio-blk,drive=n,addr=4",
       {}},
      {"-device virtio-rng-pci",
       {"-device in PCI slot 1 is virtio-rng-pci, the machine has virtio-serial-pci",
        "-device in PCI slot 2 is none, the machine has virtio-rng-pci",
        "-device in PCI slot 4 is none, the machine has virtio-blk-pci"}},
      {"-drive if=none,id=d,file=/e,format=raw,readonly=on -device virtio-blk-pci,drive=d,addr=4,serial=s "
       "-chardev null,id=c -device virtserialport,chardev=c,name=q -device virtio-rng-pci -device virtio-rng-pci",
       {"-device in PCI slot 1: ports is 'q', the machine has 'p0'",
        "-device in PCI slot 3 is virtio-rng-pci, the machine has none",
        "-device in PCI slot 4: file is '/e', the machine has '/d'",
        "-device in PCI slot 4: readonly is on, the machine has off",
        "-device in PCI slot 4: serial is 's', the machine has ''"}},
  };
  for (const auto& c : kCases) {
    EXPECT_EQ(DescribeDifferences(DescribeGiven(Parse("-incoming defer " + c.line)), saved), c.differences) << c.line;
  }
}

// Ids are names for the user alone.
TEST(DescriptionTest, ComparesVfioDevices) {
  const MachineDescription saved = DescribeMachine(Parse(absl::StrCat(kVfio, "-kernel /k")));
  const struct {
    std::string line;
    std::vector<std::string> differences;
  } kCases[] = {
      {"", {}},
      {kVfio, {}},
      {"-object iommufd,id=j -device virtio-rng-pci,addr=2 -device vfio-pci,host=0:5.0,id=w,addr=3 "
       "-device vfio-pci,host=0000:00:04.0,iommufd=j",
       {}},
      {"-object iommufd,id=i -device vfio-pci,host=0:6.0 -device virtio-rng-pci -device "
       "vfio-pci,host=0:5.0,iommufd=i",
       {"-device in PCI slot 1: host is '0000:00:06.0', the machine has '0000:00:04.0'",
        "-device in PCI slot 1: backend is container, the machine has iommufd",
        "-device in PCI slot 3: backend is iommufd, the machine has container"}},
      {"-object iommufd,id=i -device vfio-pci,host=0:4.0,iommufd=i -device vfio-pci,host=0:5.0,addr=4",
       {"-device in PCI slot 2 is none, the machine has virtio-rng-pci",
        "-device in PCI slot 3 is none, the machine has vfio-pci",
        "-device in PCI slot 4 is vfio-pci, the machine has none"}},
      {"-device virtio-rng-pci,addr=1 -device virtio-rng-pci,addr=2",
       {"-device in PCI slot 1 is virtio-rng-pci, the machine has vfio-pci",
        "-device in PCI slot 3 is none, the machine has vfio-pci"}},
  };
  for (const auto& c : kCases) {
    EXPECT_EQ(DescribeDifferences(DescribeGiven(Parse("-incoming defer " + c.line)), saved), c.differences) << c.line;
  }
  EXPECT_THAT(DescribeDifferences(DescribeGiven(Parse("-incoming defer -device vfio-pci,host=0:4.0")),
                                  DescribeMachine(Parse("-kernel /k"))),
              ElementsAre("-device in PCI slot 1 is vfio-pci, the machine has none"));
}

// The iommufd's fd comes under the id that the old side knew it by.
TEST(DescriptionTest, JoiningTakesTheNewSidesIdsOfVfioDevices) {
  const MachineDescription saved = DescribeMachine(Parse(absl::StrCat(kVfio, "-kernel /k")));
  CPR_ASSERT_OK_AND_ASSIGN(
      const MachineDescription joined,
      JoinDescriptions(
          DescribeGiven(Parse("-incoming defer -object iommufd,id=j -device vfio-pci,host=0:5.0,id=w,addr=3 "
                              "-device vfio-pci,host=0:4.0,iommufd=j -device virtio-rng-pci")),
          saved));
  EXPECT_THAT(*joined.vfio_devices, ElementsAre(VfioDeviceConfig{.slot = 1, .host = "0000:00:04.0", .iommufd = "i"},
                                                VfioDeviceConfig{.slot = 3, .id = "w", .host = "0000:00:05.0"}));
  CPR_ASSERT_OK_AND_ASSIGN(const MachineDescription same,
                           JoinDescriptions(DescribeGiven(Parse("-incoming defer")), saved));
  EXPECT_EQ(same, saved);
}

TEST(DescriptionTest, ComparesNetworkDevices) {
  const MachineDescription saved = DescribeMachine(
      Parse("-netdev tap,id=n,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=n -kernel /k"));
  const std::string vhost = "-incoming defer -netdev tap,id=m,fd=7,vhostfd=8 -device virtio-net-pci,netdev=m";
  EXPECT_THAT(DescribeDifferences(DescribeGiven(Parse(vhost)), saved),
              ElementsAre("-device in PCI slot 1: vhost is on, the machine has off"));
  const std::string fd = "-incoming defer -netdev tap,id=m,fd=7 -device virtio-net-pci,netdev=m";
  EXPECT_THAT(DescribeDifferences(DescribeGiven(Parse(fd)), saved), IsEmpty());
  CPR_ASSERT_OK_AND_ASSIGN(const MachineDescription joined, JoinDescriptions(DescribeGiven(Parse(fd)), saved));
  EXPECT_EQ((*joined.devices)[0].net.fd, 7);
  EXPECT_EQ((*joined.devices)[0].net.interface, "tap0");
  EXPECT_THAT(DescribeDifferences(DescribeGiven(Parse("-incoming defer -netdev "
                                                      "tap,id=n,ifname=tap1,script=no,downscript=no -device "
                                                      "virtio-net-pci,netdev=n,mac=52:54:00:12:34:57")),
                                  saved),
              ElementsAre("-device in PCI slot 1: ifname is 'tap1', the machine has 'tap0'",
                          "-device in PCI slot 1: mac is 52:54:00:12:34:57, the machine has 52:54:00:12:34:56"));
}

TEST(DescriptionTest, JoiningTakesTheNewSidesChardevsInTheSavedOrder) {
  const MachineDescription saved = DescribeMachine(Parse(absl::StrCat(kDevices, "-kernel /k")));
  CPR_ASSERT_OK_AND_ASSIGN(
      const MachineDescription joined,
      JoinDescriptions(
          DescribeGiven(
              Parse("-incoming defer -chardev pty,id=x -device virtserialport,chardev=x,name=p0 -drive "
                    "if=none,id=n,file=/d,format=raw -device virtio-rng-pci -device virtio-blk-pci,drive=n,addr=4")),
          saved));
  ASSERT_EQ(joined.devices->size(), 3u);
  EXPECT_EQ((*joined.devices)[0].slot, 4u);
  EXPECT_EQ((*joined.devices)[1].ports[0].chardev_id, "x");
  EXPECT_EQ((*joined.devices)[1].ports[0].chardev.kind, ChardevConfig::Kind::kPty);
}

TEST(DescriptionTest, JoiningTakesTheNewSidesNameAndSerialBackend) {
  const MachineDescription saved = DescribeMachine(Parse(kBoot));
  CPR_ASSERT_OK_AND_ASSIGN(
      const MachineDescription joined,
      JoinDescriptions(DescribeGiven(Parse("-incoming defer -name new -serial stdio -machine aux-ram-share=on")),
                       saved));
  EXPECT_EQ(joined.name, "new");
  EXPECT_EQ(joined.serial->config.kind, ChardevConfig::Kind::kStdio);
  EXPECT_EQ(joined.memory, saved.memory);
  EXPECT_THAT(JoinDescriptions(DescribeGiven(Parse("-incoming defer -smp 3 -m 1M")), saved),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("-smp is 3"), HasSubstr("; -m is 1048576 bytes"))));
}

// A device for a test to alter.
v1::MachineVirtioDevice* Rng(v1::MachineDescription& machine) {
  v1::MachineDevices* const devices = machine.mutable_devices();
  v1::MachineVirtioDevice* const device =
      devices->virtio_size() > 0 ? devices->mutable_virtio(0) : devices->add_virtio();
  device->Clear();
  device->set_kind(v1::MACHINE_VIRTIO_KIND_RNG);
  device->set_slot(7);
  device->set_id("");
  device->set_path("");
  device->set_read_only(false);
  device->set_serial("");
  return device;
}

v1::MachineVfioDevice* Vfio(v1::MachineDescription& machine) {
  v1::MachineVfioDevice* const device = machine.mutable_devices()->add_vfio();
  device->set_slot(8);
  device->set_id("");
  device->set_host("0000:01:00.0");
  device->set_iommufd("");
  return device;
}

TEST(DescriptionTest, SaysWhichPartOfAVfioDeviceIsBroken) {
  const auto read = [](void (*change)(v1::MachineVfioDevice*)) {
    v1::MachineDescription proto = MachineDescriptionToProto(DescribeMachine(Parse("-kernel /k")));
    change(Vfio(proto));
    return MachineDescriptionFromProto(proto).status();
  };
  constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
  EXPECT_THAT(read([](v1::MachineVfioDevice*) {}), IsOk());
  EXPECT_THAT(read([](v1::MachineVfioDevice* device) { device->set_slot(32); }),
              StatusIs(kDataLoss, "field 'devices': field 'slot' is out of range"));
  EXPECT_THAT(read([](v1::MachineVfioDevice* device) { device->set_host("01:00.0"); }),
              StatusIs(kDataLoss, "field 'devices': field 'host' is out of range"));
  EXPECT_THAT(read([](v1::MachineVfioDevice* device) { device->clear_iommufd(); }),
              StatusIs(kDataLoss, "field 'devices': field 'iommufd' is missing"));
}

struct DescriptionTraits {
  using Object = MachineDescription;
  using Proto = v1::MachineDescription;
  static std::unique_ptr<Object> Create() {
    return std::make_unique<Object>(DescribeMachine(Parse("-kernel /k -serial null")));
  }
  static void Modify(Object& object) {
    object = DescribeMachine(
        Parse("-kernel /l -initrd /i -append a -smp 3 -machine kernel-irqchip=on -serial pty -name n "
              "-uuid 00000000-0000-0000-0000-000000000003 -drive if=none,id=d,file=/d,format=raw,readonly=on "
              "-device virtio-blk-pci,drive=d,serial=s,id=b -chardev null,id=c -device virtserialport,chardev=c,name=p "
              "-device virtio-rng-pci -netdev tap,id=t,ifname=tap0,script=no,downscript=no "
              "-device virtio-net-pci,netdev=t -object iommufd,id=i -device vfio-pci,host=0:4.0,iommufd=i,id=v "
              "-object memory-backend-memfd,id=m,size=4M,share=off,hugetlb=on,hugetlbsize=2M,prealloc=on"));
  }
  static Proto Save(const Object& object) { return MachineDescriptionToProto(object); }
  static absl::Status Restore(Object& object, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(object, MachineDescriptionFromProto(proto));
    return absl::OkStatus();
  }
  static std::vector<testing::Corruption<Proto>> Corruptions() {
    return {
        {"type", [](Proto& p) { p.set_type(static_cast<v1::MachineType>(9)); }},
        {"irqchip", [](Proto& p) { p.set_irqchip(static_cast<v1::MachineIrqchip>(9)); }},
        {"vcpus 0", [](Proto& p) { p.set_vcpus(0); }},
        {"vcpus 65", [](Proto& p) { p.set_vcpus(65); }},
        {"no memory", [](Proto& p) { p.clear_memory(); }},
        {"memory kind", [](Proto& p) { p.mutable_memory()->set_kind(static_cast<v1::MemoryBackendKind>(9)); }},
        {"memory id", [](Proto& p) { p.mutable_memory()->set_id("0/"); }},
        {"memory size", [](Proto& p) { p.mutable_memory()->set_size_bytes(4097); }},
        {"memory path", [](Proto& p) { p.mutable_memory()->set_mem_path("/x"); }},
        {"kernel", [](Proto& p) { p.set_kernel("relative"); }},
        {"initrd", [](Proto& p) { p.set_initrd("relative"); }},
        {"serial", [](Proto& p) { p.mutable_serial()->clear_kind(); }},
        {"uuid", [](Proto& p) { p.set_uuid("1"); }},
        {"no devices", [](Proto& p) { p.clear_devices(); }},
        {"device kind", [](Proto& p) { Rng(p)->set_kind(static_cast<v1::MachineVirtioKind>(9)); }},
        {"slot 0", [](Proto& p) { Rng(p)->set_slot(0); }},
        {"slot 32", [](Proto& p) { Rng(p)->set_slot(32); }},
        {"two in a slot", [](Proto& p) { *p.mutable_devices()->add_virtio() = *Rng(p); }},
        {"image of no disk", [](Proto& p) { Rng(p)->set_path("/d"); }},
        {"disk without image", [](Proto& p) { Rng(p)->set_kind(v1::MACHINE_VIRTIO_KIND_BLK); }},
        {"tap of no network device", [](Proto& p) { Rng(p)->mutable_net(); }},
        {"network device without a tap", [](Proto& p) { Rng(p)->set_kind(v1::MACHINE_VIRTIO_KIND_NET); }},
        {"five bytes of address",
         [](Proto& p) {
           Rng(p)->set_kind(v1::MACHINE_VIRTIO_KIND_NET);
           v1::MachineVirtioNet& net = *Rng(p)->mutable_net();
           net.set_netdev_id("");
           net.set_interface("t");
           net.set_mac("12345");
           net.set_vhost(false);
         }},
        {"VFIO slot 0", [](Proto& p) { Vfio(p)->set_slot(0); }},
        {"VFIO slot 32", [](Proto& p) { Vfio(p)->set_slot(32); }},
        {"VFIO device in a virtio device's slot", [](Proto& p) { Vfio(p)->set_slot(Rng(p)->slot()); }},
        {"two VFIO devices in a slot",
         [](Proto& p) {
           Vfio(p);
           Vfio(p)->set_host("0000:02:00.0");
         }},
        {"VFIO device twice",
         [](Proto& p) {
           Vfio(p);
           Vfio(p)->set_slot(9);
         }},
        {"VFIO device without an address", [](Proto& p) { Vfio(p)->set_host(""); }},
        {"address out of range", [](Proto& p) { Vfio(p)->set_host("0000:01:20.0"); }},
        {"address in short", [](Proto& p) { Vfio(p)->set_host("01:00.0"); }},
        {"address that is a path", [](Proto& p) { Vfio(p)->set_host("../0000:01:00.0"); }},
        {"iommufd that is no id", [](Proto& p) { Vfio(p)->set_iommufd("/"); }},
        {"VFIO device without a slot", [](Proto& p) { Vfio(p)->clear_slot(); }},
        {"VFIO device without an id", [](Proto& p) { Vfio(p)->clear_id(); }},
        {"VFIO device without host", [](Proto& p) { Vfio(p)->clear_host(); }},
        {"VFIO device without iommufd", [](Proto& p) { Vfio(p)->clear_iommufd(); }},
        {"ports of no bus", [](Proto& p) { Rng(p)->add_ports(); }},
        {"port without chardev",
         [](Proto& p) {
           Rng(p)->set_kind(v1::MACHINE_VIRTIO_KIND_SERIAL);
           Rng(p)->add_ports()->set_name("p");
         }},
    };
  }
};
}  // namespace

namespace testing {
INSTANTIATE_TYPED_TEST_SUITE_P(MachineDescription, SectionConformance, DescriptionTraits);
}  // namespace testing
}  // namespace cpr
