#include "vmm/options/options.h"

#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Kind = ChardevConfig::Kind;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// `line` split at spaces, with a kernel added so that there is something to boot.
absl::StatusOr<Options> Parse(const std::string& line) {
  std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  words.insert(words.end(), {"-kernel", "K"});
  return ParseOptions(words);
}

TEST(OptionsTest, TakesTheCommandLineOfAQmpClient) {
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options o,
      Parse(
          "-accel kvm -cpu host -machine q35,memory-backend=ram0,aux-ram-share=on -smp 1 -object "
          "memory-backend-file,id=ram0,size=512M,mem-path=F,share=on -m 512M -nodefaults -no-user-config -display none "
          "-serial file:S -qmp unix:Q,server=on,wait=off"));
  EXPECT_EQ(o.machine_type, "q35");
  EXPECT_EQ(o.aux_ram_share, true);
  EXPECT_EQ(o.vcpus, 1u);
  EXPECT_EQ(o.memory_bytes, 512ull << 20);
  EXPECT_EQ(
      *o.memory_backend,
      (MemoryBackend{
          .kind = MemoryBackendKind::kFile, .id = "ram0", .size_bytes = 512ull << 20, .share = true, .mem_path = "F"}));
  EXPECT_EQ(*o.serial, (ChardevOption{.config = {.kind = Kind::kFile, .path = "S"}}));
  ASSERT_THAT(o.monitors, SizeIs(1));
  EXPECT_EQ(o.monitors[0].protocol, MonitorOptions::Protocol::kQmp);
  EXPECT_EQ(o.monitors[0].chardev, (ChardevConfig{.kind = Kind::kSocket, .path = "Q", .server = true}));
  EXPECT_EQ(o.kernel, "K");
  EXPECT_FALSE(o.incoming.has_value());
}

TEST(OptionsTest, TakesTheTranscriptsCommandLines) {
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options reboot,
      Parse("-monitor stdio -object memory-backend-file,id=ram0,size=4G,mem-path=/dev/dax0.0,align=2M,share=on -m 4G"));
  EXPECT_EQ(reboot.memory_backend->mem_path, "/dev/dax0.0") << "the only -object is the machine's RAM";
  EXPECT_EQ(reboot.memory_backend->align_bytes, 2u << 20);
  EXPECT_EQ(reboot.monitors[0].protocol, MonitorOptions::Protocol::kHmp);
  CPR_ASSERT_OK_AND_ASSIGN(const Options exec, Parse("-machine memfd-alloc=on"));
  EXPECT_EQ(exec.aux_ram_share, true);
  EXPECT_FALSE(exec.machine_type.has_value());
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options transfer,
      ParseOptions(std::vector<std::string>{
          "-incoming", "tcp:0:44444", "-incoming",
          R"({"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"cpr.sock"}})"}));
  EXPECT_EQ(FormatUri(*transfer.incoming->main), "tcp:0:44444");
  EXPECT_EQ(FormatUri(*transfer.incoming->cpr), "unix:cpr.sock");
}

TEST(OptionsTest, IncomingNeedsNothingElse) {
  CPR_ASSERT_OK_AND_ASSIGN(const Options file, ParseOptions(std::vector<std::string>{"-incoming", "file:vm.state"}));
  EXPECT_EQ(FormatUri(*file.incoming->main), "file:vm.state");
  CPR_ASSERT_OK_AND_ASSIGN(const Options defer, ParseOptions(std::vector<std::string>{"-incoming", "defer"}));
  ASSERT_TRUE(defer.incoming.has_value());
  EXPECT_FALSE(defer.incoming->main.has_value());
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options both,
      Parse("-incoming defer -incoming channel-type=cpr,addr.transport=socket,addr.type=unix,addr.path=a,,b"));
  EXPECT_FALSE(both.incoming->main.has_value());
  EXPECT_EQ(both.incoming->cpr->path, "a,b");
}

TEST(OptionsTest, TakesQemusSizes) {
  const struct {
    std::string argument;
    uint64_t bytes;
  } kCases[] = {
      {"512", 512ull << 20}, {"512M", 512ull << 20}, {"4G", 4ull << 30}, {"size=1g", 1ull << 30}, {"1.5G", 3ull << 29}};
  for (const auto& c : kCases) {
    CPR_ASSERT_OK_AND_ASSIGN(const Options o, Parse("-m " + c.argument));
    EXPECT_EQ(o.memory_bytes, c.bytes) << c.argument;
  }
  CPR_ASSERT_OK_AND_ASSIGN(const Options backend, Parse("-object memory-backend-memfd,id=r,size=64M"));
  EXPECT_EQ(backend.memory_bytes, 64ull << 20) << "without -m the backend's size counts";
  EXPECT_TRUE(backend.memory_backend->share) << "as with QEMU, memfd is shared unless told otherwise";
}

TEST(OptionsTest, TakesTheRest) {
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options o,
      Parse("-M pc,accel=kvm,kernel-irqchip=on --enable-kvm -smp cpus=64 -S -name guest=vm -uuid "
            "0123ABCD-0000-0000-0000-000000000001 -pidfile P -D L -sandbox on -no-reboot -nodefaults -nographic "
            "-initrd I -append x -chardev socket,id=s0,path=/s,server,nowait -serial chardev:s0 -monitor none"));
  EXPECT_EQ(o.machine_type, "pc");
  EXPECT_EQ(o.irqchip, IrqchipKind::kKernel);
  EXPECT_EQ(o.vcpus, 64u);
  EXPECT_EQ(o.name, "vm");
  EXPECT_EQ(o.uuid, "0123abcd-0000-0000-0000-000000000001");
  EXPECT_EQ(o.pidfile, "P");
  EXPECT_EQ(o.log_file, "L");
  EXPECT_EQ(o.initrd, "I");
  EXPECT_EQ(o.append, "x");
  EXPECT_TRUE(o.start_paused && o.sandbox.on && o.no_reboot && o.nodefaults && o.nographic);
  EXPECT_EQ(*o.serial, (ChardevOption{.id = "s0", .config = {.kind = Kind::kSocket, .path = "/s", .server = true}}));
  EXPECT_THAT(o.monitors, SizeIs(0));
}

TEST(OptionsTest, TakesTheSandboxAndItsParts) {
  CPR_ASSERT_OK_AND_ASSIGN(const Options on, Parse("-sandbox on,obsolete=deny,elevateprivileges=deny"));
  EXPECT_TRUE(on.sandbox.on && on.sandbox.spawn && on.sandbox.resource_control);
  CPR_ASSERT_OK_AND_ASSIGN(const Options tight,
                           Parse("-sandbox on,elevateprivileges=children,spawn=deny,resourcecontrol=deny"));
  EXPECT_TRUE(tight.sandbox.on && !tight.sandbox.spawn && !tight.sandbox.resource_control);
  CPR_ASSERT_OK_AND_ASSIGN(const Options off, Parse("-sandbox off"));
  EXPECT_FALSE(off.sandbox.on);
}

TEST(OptionsTest, TakesEachSerialBackend) {
  const struct {
    std::string argument;
    ChardevOption chardev;
  } kCases[] = {
      {"stdio", {.config = {.kind = Kind::kStdio}}},
      {"none", {.none = true}},
      {"null", {.config = {.kind = Kind::kNull}}},
      {"pty", {.config = {.kind = Kind::kPty}}},
      {"file:a,append=on", {.config = {.kind = Kind::kFile, .path = "a", .append = true}}},
      {"unix:a", {.config = {.kind = Kind::kSocket, .path = "a"}}},
      {"unix:a,server=on", {.config = {.kind = Kind::kSocket, .path = "a", .server = true, .wait = true}}},
  };
  for (const auto& c : kCases) {
    CPR_ASSERT_OK_AND_ASSIGN(const Options o, Parse("-serial " + c.argument));
    EXPECT_EQ(*o.serial, c.chardev) << c.argument;
  }
}

TEST(OptionsTest, NographicPutsTheSerialPortOnStdioIfItIsFree) {
  CPR_ASSERT_OK_AND_ASSIGN(const Options free, Parse("-nographic"));
  EXPECT_EQ(free.serial->config.kind, Kind::kStdio);
  CPR_ASSERT_OK_AND_ASSIGN(const Options taken, Parse("-nographic -monitor stdio"));
  EXPECT_FALSE(taken.serial.has_value());
  CPR_ASSERT_OK_AND_ASSIGN(const Options nodefaults, Parse("-nographic -nodefaults"));
  EXPECT_FALSE(nodefaults.serial.has_value());
}

TEST(OptionsTest, ObjectsMayBeJson) {
  CPR_ASSERT_OK_AND_ASSIGN(
      const Options o,
      Parse(
          R"(-object {"qom-type":"memory-backend-memfd","id":"r","size":2097152,"hugetlb":true,"hugetlbsize":2097152})"));
  EXPECT_EQ(o.memory_backend->hugetlb_size_bytes, 2u << 20);
}

struct Refusal {
  std::string line;
  std::string message;
};

TEST(OptionsTest, RefusesByName) {
  const Refusal kCases[] = {
      {"-vga std", "-vga: invalid option"},
      {"disk.img", "disk.img: not an option"},
      {"-machine q36", "-machine q36: unsupported machine type: 'q36'; there are q35, pc and microvm"},
      {"-machine q35,usb=on", "-machine q35,usb=on: Parameter 'usb' is unexpected"},
      {"-machine aux-ram-share=maybe", "-machine aux-ram-share=maybe: Parameter 'aux-ram-share' expects 'on' or 'off'"},
      {"-machine kernel-irqchip=off",
       "-machine kernel-irqchip=off: Parameter 'kernel-irqchip' does not accept value 'off'"},
      {"-machine accel=tcg", "-machine accel=tcg: invalid accelerator tcg; there is only kvm"},
      {"-accel tcg", "-accel tcg: invalid accelerator tcg; there is only kvm"},
      {"-accel kvm,dirty-ring-size=4096", "-accel kvm,dirty-ring-size=4096: Parameter 'dirty-ring-size' is unexpected"},
      {"-cpu max", "-cpu max: unable to find CPU model 'max'; there is only host"},
      {"-cpu host,-avx", "-cpu host,-avx: Parameter '-avx' is unexpected"},
      {"-smp 0", "-smp 0: Invalid CPU topology: CPU topology parameters must be greater than zero"},
      {"-smp 65", "-smp 65: Invalid SMP CPUs 65. The max CPUs supported by machine 'q35' is 64"},
      {"-smp x", "-smp x: Parameter 'smp.cpus' expects uint64"},
      {"-smp -1", "-smp -1: Parameter 'smp.cpus' expects uint64"},
      {"-smp 2,sockets=2", "-smp 2,sockets=2: Parameter 'smp.sockets' is unexpected"},
      {"-m 5x", "-m 5x: Parameter 'size' expects a non-negative number below 2^64"},
      {"-m 0", "-m 0: Parameter 'size' expects a size above 0"},
      {"-m 1000b", "-m 1000b: Parameter 'size' expects a multiple of the page size"},
      {"-m 1G,slots=2", "-m 1G,slots=2: Parameter 'slots' is unexpected"},
      {"-object rng-random,id=r", "-object rng-random,id=r: Parameter 'qom-type' does not accept value 'rng-random'"},
      {"-object iommufd,id=i", "-object i: nothing uses it"},
      {"-object iommufd", "-object iommufd: Parameter 'id' is missing"},
      {"-object iommufd,id=1", "-object iommufd,id=1: Parameter 'id' expects an identifier"},
      {"-object iommufd,id=i,fd=3", "-object iommufd,id=i,fd=3: Parameter 'fd' is unexpected"},
      {"-object iommufd,id=i -object iommufd,id=i", "-object iommufd,id=i: Duplicate ID 'i' for object"},
      {"-object memory-backend-ram,id=i,size=1M -object iommufd,id=i",
       "-object iommufd,id=i: Duplicate ID 'i' for object"},
      {"-object iommufd,id=i -object memory-backend-ram,id=i,size=1M",
       "-object memory-backend-ram,id=i,size=1M: Duplicate ID 'i' for object"},
      {"-object iommufd,id=i -machine memory-backend=i", "-machine memory-backend=i: no -object has this id"},
      {"-object memory-backend-ram,size=1M", "-object memory-backend-ram,size=1M: Parameter 'id' is missing"},
      {"-object memory-backend-ram,id=1,size=1M",
       "-object memory-backend-ram,id=1,size=1M: Parameter 'id' expects an identifier"},
      {"-object memory-backend-ram,id=r", "-object memory-backend-ram,id=r: can't create backend with size 0"},
      {"-object memory-backend-ram,id=r,size=5000",
       "-object memory-backend-ram,id=r,size=5000: backend 'r' size is not a multiple of the page size"},
      {"-object memory-backend-ram,id=r,size=1M,mem-path=x",
       "-object memory-backend-ram,id=r,size=1M,mem-path=x: Parameter 'mem-path' is unexpected"},
      {"-object memory-backend-file,id=r,size=1M",
       "-object memory-backend-file,id=r,size=1M: mem-path property not set"},
      {"-object memory-backend-file,id=r,size=1M,mem-path=x,align=3",
       "-object memory-backend-file,id=r,size=1M,mem-path=x,align=3: Parameter 'align' expects a power of 2"},
      {"-object memory-backend-memfd,id=r,size=2M,hugetlbsize=2M",
       "-object memory-backend-memfd,id=r,size=2M,hugetlbsize=2M: 'hugetlbsize' needs 'hugetlb=on'"},
      {"-object memory-backend-ram,id=r,size=1M -object memory-backend-ram,id=r,size=1M",
       "-object memory-backend-ram,id=r,size=1M: Duplicate ID 'r' for object"},
      {"-object memory-backend-ram,id=a,size=1M -object memory-backend-ram,id=b,size=1M -machine memory-backend=a",
       "-object b: nothing uses it; say -machine memory-backend=b or leave it out"},
      {"-machine memory-backend=a", "-machine memory-backend=a: no -object has this id"},
      {"-m 2M -object memory-backend-ram,id=a,size=1M",
       "Machine memory size does not match the size of the memory backend (-m says 2097152 bytes, -object a 1048576)"},
      {"-serial tcp:h:1", "-serial tcp:h:1: 'tcp:h:1' is not a valid char driver"},
      {"-serial file:", "-serial file:: Parameter 'path' is missing"},
      {"-serial file:a,b=c", "-serial file:a,b=c: Parameter 'b' is unexpected"},
      {"-serial unix:a,wait=off",
       "-serial unix:a,wait=off: 'wait' option is incompatible with socket in client connect mode"},
      {"-serial null -serial null", "-serial null: too many serial ports"},
      {"-serial chardev:c", "-serial chardev:c: chardev \"c\" not found"},
      {"-chardev null,id=c", "-chardev c: nothing uses it"},
      {"-chardev spicevmc,id=c", "-chardev spicevmc,id=c: Parameter 'backend' does not accept value 'spicevmc'"},
      {"-chardev null", "-chardev null: Parameter 'id' is missing"},
      {"-chardev null,id=c -chardev null,id=c", "-chardev null,id=c: Duplicate ID 'c' for chardev"},
      {"-serial stdio -monitor stdio", "cannot use stdio by multiple character devices"},
      {"-qmp tcp:h:1,server=on", "-qmp tcp:h:1,server=on: 'tcp:h:1,server=on' is not a valid char driver"},
      {"-qmp file:x", "-qmp file:x: a monitor needs stdio or a unix socket"},
      {"-uuid 1", "-uuid 1: failed to parse UUID string: wrong format"},
      {"-sandbox maybe", "-sandbox maybe: Parameter 'enable' expects 'on' or 'off'"},
      {"-sandbox on,spawn=maybe", "-sandbox on,spawn=maybe: Parameter 'spawn' does not accept value 'maybe'"},
      {"-sandbox on,obsolete=allow", "-sandbox on,obsolete=allow: obsolete system calls are on no list here"},
      {"-sandbox on,elevateprivileges=allow",
       "-sandbox on,elevateprivileges=allow: under a sandbox privileges are never gained "
       "here"},
      {"-name vm,process=x", "-name vm,process=x: Parameter 'process' is unexpected"},
      {"-display gtk", "-display gtk: Parameter 'type' does not accept value 'gtk'"},
      {"-netdev x", "-netdev x: Parameter 'type' does not accept value 'x'"},
      {"-incoming rdma:x", "-incoming rdma:x: unknown migration protocol: rdma:x"},
      {"-incoming file:a -incoming file:b", "-incoming: Channel list has more than one main entry"},
      {"-incoming defer -incoming file:b", "-incoming: Channel list has more than one main entry"},
      {"-incoming cpr,addr.transport=socket,addr.type=unix,addr.path=p", "-incoming: Channel list has no main entry"},
      {"-incoming defer -incoming cpr,addr.transport=file,addr.filename=p",
       "-incoming: bad cpr channel address; must be unix"},
      {"-incoming main,addr=x,addr.y=z", "-incoming main,addr=x,addr.y=z: Parameters 'addr.*' used inconsistently"},
      {"-machine q35,=x", "-machine q35,=x: Expected parameter before '=x'"},
  };
  for (const Refusal& c : kCases) {
    const auto options = Parse(c.line);
    ASSERT_FALSE(options.ok()) << c.line;
    EXPECT_EQ(options.status().message(), c.message) << c.line;
  }
}

TEST(OptionsTest, RefusesToBootNothing) {
  EXPECT_THAT(ParseOptions(std::vector<std::string>{}), StatusIs(kInvalid, HasSubstr("-kernel is needed")));
  EXPECT_THAT(ParseOptions(std::vector<std::string>{"-append", "x", "-incoming", "defer"}),
              StatusIs(kInvalid, "-append only allowed with -kernel option"));
  EXPECT_THAT(ParseOptions(std::vector<std::string>{"-initrd", "x", "-incoming", "defer"}),
              StatusIs(kInvalid, "-initrd only allowed with -kernel option"));
}

TEST(OptionsTest, NamesTheOptionThatLacksItsArgument) {
  EXPECT_THAT(ParseOptions(std::vector<std::string>{"-m"}), StatusIs(kInvalid, "-m: requires an argument"));
}

TEST(OptionsTest, HelpAndVersionNeedNothingToBoot) {
  CPR_ASSERT_OK_AND_ASSIGN(const Options help, ParseOptions(std::vector<std::string>{"--help"}));
  EXPECT_TRUE(help.print_help);
  CPR_ASSERT_OK_AND_ASSIGN(const Options version, ParseOptions(std::vector<std::string>{"-version"}));
  EXPECT_TRUE(version.print_version);
  EXPECT_THAT(HelpText(), AllOf(HasSubstr("-incoming URI|defer"), HasSubstr("-sandbox on|off")));
  EXPECT_THAT(VersionText(), HasSubstr("cpr-vmm "));
}

TEST(OptionsTest, FindsIncomingAmongWords) {
  const auto has = [](const std::string& line) {
    return HasIncomingOption(std::vector<std::string>(absl::StrSplit(line, ' ')));
  };
  EXPECT_TRUE(has("numactl cpr-vmm -m 1G -incoming memfd:"));
  EXPECT_TRUE(has("cpr-vmm --incoming memfd:"));
  EXPECT_FALSE(has("cpr-vmm -m 1G"));
  EXPECT_FALSE(has("cpr-vmm -incoming"));
}

}  // namespace
}  // namespace cpr
