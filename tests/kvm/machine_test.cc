// The machine runs the self-checking guest, pauses it, resumes it and resets it.
#include "vmm/machine/machine.h"

#include <algorithm>
#include <tuple>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/kvm/test_machine.h"

namespace cpr::testing {
namespace {

using ::testing::HasSubstr;

class MachineTest : public ::testing::TestWithParam<std::tuple<unsigned, IrqchipKind>> {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    CPR_ASSERT_OK_AND_ASSIGN(kvm::System system, kvm::System::Create());
    system_ = std::make_unique<kvm::System>(std::move(system));
    CPR_ASSERT_OK_AND_ASSIGN(loop_, EventLoop::Create());
    options_ = {.vcpus = std::get<0>(GetParam()),
                .irqchip = std::get<1>(GetParam()),
                .cmdline = "idle irq4",
                .serial_path = ::testing::TempDir() + "/machine_test.serial"};
  }

  void Create() {
    machine_.reset();
    const auto on_event = [this](GuestEvent event, const std::string& text) {
      event_ = event;
      event_text_ = text;
    };
    CPR_ASSERT_OK_AND_ASSIGN(machine_,
                             CreateMachine(system_.get(), loop_.get(), DescribeGuestMachine(options_), on_event));
  }
  void Start() {
    ASSERT_NO_FATAL_FAILURE(Create());
    machine_->Resume();
  }

  absl::Status AwaitRunning() {
    return RunLoopUntil(*loop_, [this] { return GuestAbi(*machine_).state == CPR_GUEST_RUNNING || Failed(); });
  }
  bool Failed() const { return event_ != GuestEvent::kUnspecified || GuestAbi(*machine_).failure != 0; }

  GuestMachineOptions options_;
  std::unique_ptr<kvm::System> system_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Machine> machine_;
  GuestEvent event_ = GuestEvent::kUnspecified;
  std::string event_text_;
};

// RAM is the same with more vCPUs: these run with one.
class MachineRamTest : public MachineTest {};

TEST_P(MachineTest, TheGuestBootsAndFindsAllRight) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_THAT(AwaitRunning(), IsOk()) << event_text_ << TextOf(options_.serial_path);
  EXPECT_THAT(VerifyGuest(*loop_, *machine_), IsOk());
  EXPECT_EQ(GuestAbi(*machine_).vcpu_count, options_.vcpus);
  EXPECT_THAT(TextOf(options_.serial_path), HasSubstr("cpr-guest: running"));
}

TEST_P(MachineTest, PausedItStandsStillAndResumedItGoesOn) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_THAT(AwaitRunning(), IsOk()) << event_text_ << TextOf(options_.serial_path);
  volatile cpr_guest_abi& abi = GuestAbi(*machine_);
  for (int i = 0; i < 50; ++i) {
    machine_->Pause();
    const uint64_t beats = abi.vcpu[0].beats, checks = abi.vcpu[options_.vcpus - 1].checks;
    machine_->Pause();
    ASSERT_EQ(abi.vcpu[0].beats, beats);
    ASSERT_EQ(abi.vcpu[options_.vcpus - 1].checks, checks);
    machine_->Resume();
    ASSERT_THAT(RunLoopUntil(*loop_, [&] { return abi.vcpu[0].beats != beats; }), IsOk());
  }
  EXPECT_THAT(VerifyGuest(*loop_, *machine_), IsOk());
}

TEST_P(MachineTest, AResetStartsItAnew) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_THAT(AwaitRunning(), IsOk()) << event_text_ << TextOf(options_.serial_path);
  machine_->Pause();
  GuestAbi(*machine_).state = CPR_GUEST_BOOTING;
  ASSERT_THAT(machine_->Reset(), IsOk());
  machine_->Resume();
  ASSERT_THAT(AwaitRunning(), IsOk()) << event_text_ << TextOf(options_.serial_path);
  EXPECT_THAT(VerifyGuest(*loop_, *machine_), IsOk());
}

TEST_P(MachineRamTest, RunsWithRamOnBothSidesOfTheHole) {
  options_.ram_bytes = kLowRamLimitBytes + (64 << 20);
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_THAT(AwaitRunning(), IsOk()) << event_text_ << TextOf(options_.serial_path);
  EXPECT_THAT(VerifyGuest(*loop_, *machine_), IsOk());
  EXPECT_EQ(machine_->memory().high_bytes(), uint64_t{64} << 20);
}

// Puts `code` (32-bit, flat, ring 0) at the kernel's entry.
void PutAtEntry(Machine& machine, const std::string& code) {
  CPR_ASSERT_OK_AND_ASSIGN(const kvm_regs regs, machine.vcpus().vcpus().front()->Regs());
  CPR_ASSERT_OK_AND_ASSIGN(const absl::Span<uint8_t> entry, machine.memory().At(regs.rip, code.size()));
  std::copy(code.begin(), code.end(), entry.begin());
}

uint32_t WordAt(Machine& machine, uint64_t gpa) {
  const auto word = machine.memory().At(gpa, sizeof(uint32_t));
  return word.ok() ? *reinterpret_cast<volatile uint32_t*>(word->data()) : ~uint32_t{0};
}

constexpr uint64_t kCounterGpa = 0x5000;
const std::string kCountForever("\xff\x05\x00\x50\x00\x00\xeb\xf8", 8);  // inc dword [0x5000]; again
const std::string kResetByChipset("\x66\xba\xf9\x0c\xb0\x06\xee", 7);    // mov dx, 0xcf9; mov al, 6; out dx, al
const std::string kResetByKeyboard("\xb0\xfe\xe6\x64", 4);               // mov al, 0xfe; out 0x64, al
const std::string kTripleFault("\x0f\x0b", 2);                           // ud2, without an IDT

TEST_P(MachineTest, AGuestThatResetsItselfStopsThereAndCanStartAnew) {
  for (const std::string& code : {kResetByChipset, kResetByKeyboard, kTripleFault}) {
    event_ = GuestEvent::kUnspecified;
    ASSERT_NO_FATAL_FAILURE(Create());
    PutAtEntry(*machine_, code + kCountForever);
    machine_->Resume();
    ASSERT_THAT(RunLoopUntil(*loop_, [this] { return event_ != GuestEvent::kUnspecified; }), IsOk());
    EXPECT_EQ(event_, GuestEvent::kReset) << event_text_;
    EXPECT_FALSE(machine_->running());
    EXPECT_EQ(WordAt(*machine_, kCounterGpa), 0u) << "it went on behind its reset";
    event_ = GuestEvent::kUnspecified;
    ASSERT_THAT(machine_->Reset(), IsOk());
    machine_->Resume();
    ASSERT_THAT(AwaitRunning(), IsOk()) << event_text_ << TextOf(options_.serial_path);
    EXPECT_THAT(VerifyGuest(*loop_, *machine_), IsOk());
  }
}

TEST_P(MachineTest, ResumedAndPausedAtAnyMomentItStopsAndGoesOn) {
  ASSERT_NO_FATAL_FAILURE(Create());
  PutAtEntry(*machine_, kCountForever);
  uint32_t count = 0;
  for (int i = 0; i < 500; ++i) {
    machine_->Resume();
    const absl::Time until = absl::Now() + absl::Microseconds((i * 7) % 60);
    while (absl::Now() < until) continue;
    machine_->Pause();
    const uint32_t now = WordAt(*machine_, kCounterGpa);
    ASSERT_GE(now, count);
    count = now;
  }
  machine_->Resume();
  EXPECT_THAT(RunLoopUntil(*loop_, [&] { return WordAt(*machine_, kCounterGpa) != count; }), IsOk());
}

void PutAt(Machine& machine, uint64_t gpa, const std::string& bytes) {
  CPR_ASSERT_OK_AND_ASSIGN(const absl::Span<uint8_t> there, machine.memory().At(gpa, bytes.size()));
  std::copy(bytes.begin(), bytes.end(), there.begin());
}

// lgdt [0x7100]; lidt [0x7180]; at 0x700e: mov esp, 0x7000; xor ecx, ecx
const std::string kWithTables("\x0f\x01\x15\x00\x71\x00\x00\x0f\x01\x1d\x80\x71\x00\x00\xbc\x00\x70\x00\x00\x31\xc9",
                              21);
const std::string kJumpTo7000("\xb8\x00\x70\x00\x00\xff\xe0", 7);      // mov eax, 0x7000; jmp eax
const std::string kGdt("\x0f\x00\x10\x71\x00\x00", 6);                 // of two entries at 0x7110
const std::string kFlatCode("\xff\xff\x00\x00\x00\x9b\xcf\x00", 8);    // GDT entry 1
const std::string kIdt("\x7f\x00\x00\x72\x00\x00", 6);                 // of 16 entries at 0x7200
const std::string kGateTo7080("\x80\x70\x08\x00\x00\x8e\x00\x00", 8);  // in code segment 8
// mov [0xd0000000], eax, where nothing is; inc dword [0x5000]; mov eax, 0x700e; jmp eax
const std::string kAccessAndTrapAgain("\xa3\x00\x00\x00\xd0\xff\x05\x00\x50\x00\x00\xb8\x0e\x70\x00\x00\xff\xe0", 18);
const std::string kDivideByZero("\xf7\xf1", 2);          // div ecx
const std::string kUndefinedInstruction("\x0f\x0b", 2);  // ud2

// Emulators of hardware virtualization are seen to take such an access for a part of the exception's delivery.
TEST_P(MachineTest, AGuestMayAccessADeviceRightAfterAnException) {
  for (const std::string& trap : {kDivideByZero, kUndefinedInstruction}) {
    ASSERT_NO_FATAL_FAILURE(Create());
    PutAtEntry(*machine_, kJumpTo7000);
    PutAt(*machine_, 0x7000, kWithTables + trap);
    PutAt(*machine_, 0x7080, kAccessAndTrapAgain);
    PutAt(*machine_, 0x7100, kGdt);
    PutAt(*machine_, 0x7118, kFlatCode);
    PutAt(*machine_, 0x7180, kIdt);
    for (const uint64_t vector : {0, 6}) PutAt(*machine_, 0x7200 + vector * kGateTo7080.size(), kGateTo7080);
    machine_->Resume();
    const auto counted = [this] { return WordAt(*machine_, kCounterGpa) >= 1000; };
    EXPECT_THAT(RunLoopUntil(*loop_, [&] { return Failed() || counted(); }), IsOk());
    EXPECT_TRUE(counted()) << WordAt(*machine_, kCounterGpa) << " accesses, then: " << event_text_;
    machine_->Pause();
    PutAt(*machine_, kCounterGpa, std::string(4, '\0'));
    event_ = GuestEvent::kUnspecified;
  }
}

std::string NameOf(const ::testing::TestParamInfo<MachineTest::ParamType>& info) {
  const auto [vcpus, irqchip] = info.param;
  return absl::StrCat(vcpus, "Vcpus", irqchip == IrqchipKind::kSplit ? "Split" : "Kernel");
}

constexpr IrqchipKind kIrqchips[] = {IrqchipKind::kSplit, IrqchipKind::kKernel};

INSTANTIATE_TEST_SUITE_P(Machines, MachineTest,
                         ::testing::Combine(::testing::Values(1u, 2u, 4u), ::testing::ValuesIn(kIrqchips)), &NameOf);
INSTANTIATE_TEST_SUITE_P(Machines, MachineRamTest,
                         ::testing::Combine(::testing::Values(1u), ::testing::ValuesIn(kIrqchips)), &NameOf);

// The most vCPUs there may be: it boots, and each of them is there.
INSTANTIATE_TEST_SUITE_P(Largest, MachineTest, ::testing::Values(std::tuple(64u, IrqchipKind::kSplit)), &NameOf);

}  // namespace
}  // namespace cpr::testing
