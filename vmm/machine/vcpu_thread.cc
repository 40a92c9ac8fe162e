#include "vmm/machine/vcpu_thread.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

int KickSignal() { return SIGRTMIN; }

void OnKick(int) {}  // its only purpose is to interrupt KVM_RUN

absl::Status InstallKickHandler() {
  struct sigaction action = {};
  action.sa_handler = &OnKick;  // without SA_RESTART
  if (::sigaction(KickSignal(), &action, nullptr) != 0) return ErrnoStatus(errno, "sigaction of the vCPU kick signal");
  return absl::OkStatus();
}

// Blocks all signals but the kick in threads made while it lives, so that those for the process reach the main thread.
class SignalsForVcpu {
 public:
  SignalsForVcpu() {
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, KickSignal());
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsForVcpu() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VcpuThread>> VcpuThread::Create(kvm::Vcpu vcpu, VcpuExits* exits) {
  CPR_RETURN_IF_ERROR(InstallKickHandler());
  std::unique_ptr<VcpuThread> self(new VcpuThread(std::move(vcpu), exits));
  const SignalsForVcpu blocked;
  self->thread_ = std::thread([thread = self.get()] { thread->Main(); });
  ::pthread_setname_np(self->thread_.native_handle(), absl::StrCat("CPU ", self->id(), "/KVM").c_str());
  self->AwaitParked();
  return self;
}

VcpuThread::~VcpuThread() {
  RequestPark();
  {
    MutexLock lock(&mutex_);
    exit_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void VcpuThread::Start() {
  MutexLock lock(&mutex_);
  run_ = true;
  changed_.SignalAll();
}

void VcpuThread::RequestPark() {
  {
    MutexLock lock(&mutex_);
    run_ = false;
    if (parked_) return;
    vcpu_.SetImmediateExit(true);
  }
  ::pthread_kill(thread_.native_handle(), KickSignal());
}

void VcpuThread::AwaitParked() {
  MutexLock lock(&mutex_);
  while (!parked_) changed_.Wait(&mutex_);
}

void VcpuThread::Submit(Work work) {
  MutexLock lock(&mutex_);
  work_ = std::move(work);
  changed_.SignalAll();
}

void VcpuThread::AwaitWork() {
  MutexLock lock(&mutex_);
  while (work_) changed_.Wait(&mutex_);
}

void VcpuThread::Main() {
  thread_id_ = static_cast<pid_t>(::syscall(SYS_gettid));
  TakeFirstRun();
  while (AwaitStart()) RunGuest();
}

void VcpuThread::TakeFirstRun() {
  vcpu_.SetImmediateExit(true);
  vcpu_.Run().IgnoreError();  // what is wrong with the vCPU is told when the guest runs
}

bool VcpuThread::AwaitStart() {
  MutexLock lock(&mutex_);
  parked_ = true;
  changed_.SignalAll();
  while (true) {
    while (!work_ && !run_ && !exit_) changed_.Wait(&mutex_);
    if (work_) {
      const Work work = work_;  // stays set until it is done: AwaitWork looks at it
      mutex_.Unlock();
      work(vcpu_);
      mutex_.Lock();
      work_ = nullptr;
      changed_.SignalAll();
    } else if (exit_) {
      return false;
    } else {
      parked_ = false;
      vcpu_.SetImmediateExit(false);
      return true;
    }
  }
}

bool VcpuThread::park_requested() {
  MutexLock lock(&mutex_);
  return !run_;
}

void VcpuThread::RunGuest() {
  while (true) {
    const absl::StatusOr<kvm::Vcpu::Outcome> outcome = vcpu_.Run();
    std::optional<VcpuStop> stop;
    if (!outcome.ok()) {
      stop = VcpuStop{GuestEvent::kInternalError, std::string(outcome.status().message())};
    } else if (*outcome == kvm::Vcpu::Outcome::kExit) {
      stop = ServeExit();
    } else if (park_requested()) {
      return;
    }
    if (stop.has_value()) return ParkAfter(*stop);
  }
}

void VcpuThread::ParkAfter(const VcpuStop& stop) {
  {
    MutexLock lock(&mutex_);
    run_ = false;
  }
  exits_->GuestStopped(id(), stop.event, stop.text);
}

void VcpuThread::ServePortIo() {
  kvm_run* run = vcpu_.run();
  uint8_t* data = reinterpret_cast<uint8_t*>(run) + run->io.data_offset;
  const size_t size = run->io.size;
  for (uint32_t i = 0; i < run->io.count; ++i, data += size) {
    if (run->io.direction == KVM_EXIT_IO_IN) {
      for (size_t byte = 0; byte < size; ++byte) data[byte] = 0xff;
      exits_->ReadPort(run->io.port, absl::MakeSpan(data, size));
    } else {
      exits_->WritePort(run->io.port, absl::MakeConstSpan(data, size));
    }
  }
}

void VcpuThread::ServeMmio() {
  auto& mmio = vcpu_.run()->mmio;
  if (mmio.is_write) return exits_->WriteMmio(mmio.phys_addr, absl::MakeConstSpan(mmio.data, mmio.len));
  for (uint8_t& byte : mmio.data) byte = 0xff;
  exits_->ReadMmio(mmio.phys_addr, absl::MakeSpan(mmio.data, mmio.len));
}

std::optional<VcpuStop> VcpuThread::StopUnlessMistaken() {
  const absl::StatusOr<kvm_vcpu_events> events = vcpu_.VcpuEvents();
  const absl::StatusOr<kvm_regs> regs = vcpu_.Regs();
  if (events.ok() && regs.ok() && delivery_errors_.IsMistake(*vcpu_.run(), *events, *regs)) return std::nullopt;
  return StopAfterExit(id(), *vcpu_.run());
}

std::optional<VcpuStop> VcpuThread::ServeExit() {
  const kvm_run& run = *vcpu_.run();
  if (run.exit_reason != KVM_EXIT_INTERNAL_ERROR) delivery_errors_.Forget();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      ServePortIo();
      return std::nullopt;
    case KVM_EXIT_MMIO:
      ServeMmio();
      return std::nullopt;
    case KVM_EXIT_IOAPIC_EOI:
      exits_->EndOfInterrupt(run.eoi.vector);
      return std::nullopt;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return std::nullopt;
    case KVM_EXIT_INTERNAL_ERROR:
      return StopUnlessMistaken();
    default:
      return StopAfterExit(id(), run);
  }
}

}  // namespace cpr
