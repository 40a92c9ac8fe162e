#include "vmm/devices/serial.h"

#include <string>

#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

class SerialTest : public ::testing::Test {
 protected:
  uint8_t In(uint64_t offset) { return serial_.Read(offset); }
  void Out(uint64_t offset, uint8_t value) { serial_.Write(offset, value); }
  void EnableFifo(uint8_t trigger = 0) { Out(2, trigger | 0x01); }

  std::string edges_;  // of the irq line
  std::string sent_;
  int room_calls_ = 0;
  Serial serial_{{.irq = [this](bool level) { edges_ += level ? "/" : "\\"; },
                  .output = [this](absl::string_view bytes) { sent_.append(bytes.data(), bytes.size()); },
                  .room = [this] { ++room_calls_; }}};
};

TEST_F(SerialTest, ComesUpIdle) {
  EXPECT_EQ(In(1), 0x00);
  EXPECT_EQ(In(2), 0x01);
  EXPECT_EQ(In(3), 0x03);
  EXPECT_EQ(In(4), 0x08);
  EXPECT_EQ(In(5), 0x60);
  EXPECT_EQ(In(6), 0xb0);
  EXPECT_EQ(edges_, "");
}

TEST_F(SerialTest, ScratchKeepsAByte) {
  Out(7, 0xa5);
  EXPECT_EQ(In(7), 0xa5);
}

TEST_F(SerialTest, DivisorLatchIsBehindItsBit) {
  Out(3, 0x83);
  Out(0, 0x34);
  Out(1, 0x12);
  EXPECT_EQ(In(0), 0x34);
  EXPECT_EQ(In(1), 0x12);
  Out(3, 0x03);
  EXPECT_EQ(In(1), 0x00);
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(serial_.Save().divisor_latch, 0x1234);
}

TEST_F(SerialTest, SendsAndStaysEmpty) {
  Out(0, 'h');
  Out(0, 'i');
  EXPECT_EQ(sent_, "hi");
  EXPECT_EQ(In(5), 0x60);
}

TEST_F(SerialTest, TransmitInterruptComesWhenEnabledAndGoesWhenIdentified) {
  Out(1, 0x02);
  EXPECT_EQ(edges_, "/");
  EXPECT_EQ(In(2), 0x02);
  EXPECT_EQ(In(2), 0x01);
  EXPECT_EQ(edges_, "/\\");
  Out(1, 0x00);
  Out(1, 0x02);  // how Linux tests for it
  EXPECT_EQ(In(2), 0x02);
}

TEST_F(SerialTest, EverySentByteIsAnEdgeOfItsOwn) {
  Out(1, 0x02);
  Out(0, 'a');
  Out(0, 'b');
  EXPECT_EQ(edges_, "/\\/\\/");
}

TEST_F(SerialTest, ReceivesOneByteWithoutFifo) {
  Out(1, 0x01);
  EXPECT_EQ(serial_.Room(), 1u);
  serial_.Receive("x");
  EXPECT_EQ(serial_.Room(), 0u);
  EXPECT_EQ(In(2), 0x04);
  EXPECT_EQ(In(5), 0x61);
  EXPECT_EQ(In(0), 'x');
  EXPECT_EQ(room_calls_, 1);
  EXPECT_EQ(In(5), 0x60);
  EXPECT_EQ(edges_, "/\\");
  EXPECT_EQ(In(0), 0);
}

TEST_F(SerialTest, FifoKeepsSixteenBytesInOrder) {
  EnableFifo();
  EXPECT_EQ(serial_.Room(), 16u);
  serial_.Receive("0123456789abcdef");
  EXPECT_EQ(serial_.Room(), 0u);
  std::string read;
  while ((In(5) & 1) != 0) read += static_cast<char>(In(0));
  EXPECT_EQ(read, "0123456789abcdef");
}

TEST_F(SerialTest, TriggerLevelsTellDataFromTimeout) {
  const struct {
    uint8_t trigger;
    size_t bytes;
  } kLevels[] = {{0x00, 1}, {0x40, 4}, {0x80, 8}, {0xc0, 14}};
  for (const auto& level : kLevels) {
    Out(2, 0);
    EnableFifo(level.trigger);
    Out(1, 0x01);
    serial_.Receive(std::string(level.bytes - 1, 'x'));
    if (level.bytes > 1) {
      EXPECT_EQ(In(2), 0xcc) << level.bytes;
    }
    serial_.Receive("x");
    EXPECT_EQ(In(2), 0xc4) << level.bytes;
  }
}

TEST_F(SerialTest, OverrunLosesTheNewestWithFifoAndTheOldestWithout) {
  serial_.Receive("ab");
  EXPECT_EQ(In(5), 0x63);
  EXPECT_EQ(In(5), 0x61) << "reading forgets the error";
  EXPECT_EQ(In(0), 'b');
  EnableFifo();
  serial_.Receive("0123456789abcdefX");
  EXPECT_EQ(In(5) & 0x02, 0x02);
  EXPECT_EQ(In(0), '0');
}

TEST_F(SerialTest, LineStatusInterruptComesFirstAndGoesWhenRead) {
  Out(1, 0x05);
  serial_.ReceiveBreak();
  EXPECT_EQ(In(2), 0x06);
  EXPECT_EQ(In(5), 0x71);
  EXPECT_EQ(In(2), 0x04);
  EXPECT_EQ(In(0), 0);
  EXPECT_EQ(In(2), 0x01);
  EXPECT_EQ(edges_, "/\\");
}

TEST_F(SerialTest, FifoControlClears) {
  EnableFifo();
  serial_.Receive("abc");
  Out(2, 0x03);
  EXPECT_EQ(In(5), 0x60);
  EXPECT_EQ(serial_.Save().fifo_control, 0x01) << "clear bits do not stay";
  serial_.Receive("abc");
  Out(2, 0xc0);  // off: the other bits do not count
  EXPECT_EQ(In(2), 0x01);
  EXPECT_EQ(In(5), 0x60);
  EXPECT_EQ(serial_.Save().fifo_control, 0x00);
}

TEST_F(SerialTest, ModemLinesAreSeenWithTheirChanges) {
  Out(1, 0x08);
  serial_.SetModemLines(0xf0);  // RI on: no trailing edge yet
  EXPECT_EQ(In(6), 0xf0);
  serial_.SetModemLines(0x00);
  EXPECT_EQ(In(2), 0x00);
  EXPECT_EQ(In(6), 0x0f);
  EXPECT_EQ(In(6), 0x00) << "reading forgets the changes";
  EXPECT_EQ(edges_, "/\\");
}

TEST_F(SerialTest, LoopbackTurnsTheLineAround) {
  Out(4, 0x1a);  // RTS, OUT2, as Linux's probe
  EXPECT_EQ(In(6) & 0xf0, 0x90);
  Out(4, 0x1f);
  EXPECT_EQ(In(6) & 0xf0, 0xf0);
  Out(0, 'x');
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(In(0), 'x');
  EXPECT_EQ(serial_.Room(), 0u) << "input waits outside";
  Out(4, 0x08);
  EXPECT_GT(room_calls_, 0);
  EXPECT_EQ(In(6) & 0xf0, 0xb0);
}

TEST_F(SerialTest, StatusRegistersAreReadOnly) {
  Out(5, 0xff);
  Out(6, 0xff);
  EXPECT_EQ(In(5), 0x60);
  EXPECT_EQ(In(6), 0xb0);
  Out(1, 0xff);
  EXPECT_EQ(In(1), 0x0f);
  Out(4, 0xff);
  EXPECT_EQ(In(4), 0x1f);
}

TEST_F(SerialTest, RestoreRaisesAnInterruptThatWasPending) {
  SerialState state;
  state.interrupt_enable = 0x01;
  state.receive_fifo = "x";
  ASSERT_THAT(serial_.Restore(state), IsOk());
  EXPECT_EQ(edges_, "/");
  EXPECT_EQ(In(0), 'x');
  EXPECT_EQ(edges_, "/\\");
}

TEST_F(SerialTest, RestoreRefusesMoreThanTheReceiverHolds) {
  SerialState state;
  state.receive_fifo = "xx";
  EXPECT_THAT(serial_.Restore(state), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("receive fifo")));
  state.fifo_control = 1;
  EXPECT_THAT(serial_.Restore(state), IsOk());
}

}  // namespace
}  // namespace cpr
