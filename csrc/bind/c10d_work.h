/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include <c10/util/SmallVector.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "rdmatrain/coll.h"

namespace rdmatrain {

/* The communicator of a backend, shared with its works. Whoever calls into it is counted as a user;
 * close() makes the users return and then frees, so a work that outlives its backend is harmless. */
class CommOwner
{
  public:
    explicit CommOwner(rdt_comm_t *comm) : comm_(comm) {}
    ~CommOwner() { close(); }
    CommOwner(const CommOwner &) = delete;
    CommOwner &operator=(const CommOwner &) = delete;

    class User
    {
      public:
        explicit User(CommOwner &owner) : owner_(owner) { owner_.users_++; }
        ~User() { owner_.users_--; }
        User(const User &) = delete;
        User &operator=(const User &) = delete;
        /* nullptr once the owner is closing: then all works are over, or soon will be. */
        rdt_comm_t *comm() const { return owner_.closing_ ? nullptr : owner_.comm_; }

      private:
        CommOwner &owner_;
    };

    /* Idempotent; releases the GIL if this thread holds it. */
    void close();

  private:
    rdt_comm_t *comm_;
    std::atomic<int> users_{0};
    std::atomic<bool> closing_{false};
};

/* A call with what it keeps alive: tensors that C reads and writes through bare pointers. */
struct TensorCall {
    rdt_call_t call{};
    std::vector<at::Tensor> outputs;      /* what the future yields */
    c10::SmallVector<at::Tensor, 2> held; /* inputs, and contiguous copies */
    std::vector<std::pair<at::Tensor, at::Tensor>>
        copy_back; /* to a strided tensor, from its copy */
    std::vector<void *> shards;
};

class Work : public c10d::Work
{
  public:
    Work(int rank, c10d::OpType op, const char *title, std::shared_ptr<CommOwner> owner,
         TensorCall &&call, uint64_t seq);
    ~Work() override;

    /* Posts self, which stays alive until it is over. Throws DistBackendError; then nothing runs. */
    static void post(const c10::intrusive_ptr<Work> &self);

    bool wait(std::chrono::milliseconds timeout) override;
    void synchronize() override { wait(kNoTimeout); }
    std::vector<at::Tensor> result() override { return call_.outputs; }
    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
    int sourceRank() const override { return static_cast<int>(call_.call.peer); }
    uint64_t getSequencenumber() const override { return seq_; }
    void abort() override {}

  private:
    static void done(void *self, rdt_status_t status, const char *text) noexcept;
    void conclude(rdt_status_t status, const char *text);
    void copy_back();
    void complete_future(const std::exception_ptr &error);

    std::shared_ptr<CommOwner> owner_;
    TensorCall call_;
    const uint64_t seq_;
    rdt_work_t *work_ = nullptr; /* written by post before anybody else has the work */
    c10::intrusive_ptr<c10::ivalue::Future> future_; /* made on demand, under mutex_ */
    std::atomic<bool> has_future_{false};            /* written under mutex_ */
    std::atomic<bool> future_done_{false};           /* somebody completes it: once */
    /* What the base class knows too, without its mutex: most works are waited for once. */
    enum class State { Pending, Succeeded, Failed };
    std::atomic<State> state_{State::Pending};
};

/* Several works as one, in order. */
class CoalescedWork : public c10d::Work
{
  public:
    CoalescedWork(int rank, std::vector<c10::intrusive_ptr<c10d::Work>> works);

    bool wait(std::chrono::milliseconds timeout) override;
    void synchronize() override { wait(kNoTimeout); }
    bool isCompleted() override;
    bool isSuccess() const override;
    std::vector<at::Tensor> result() override;
    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

  private:
    std::vector<c10::intrusive_ptr<c10d::Work>> works_;
};

[[noreturn]] void throw_status(rdt_status_t status, const char *text);

} // namespace rdmatrain
