/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include <torch/csrc/distributed/c10d/Work.hpp>

#include "c10d_tensors.h"
#include "c10d_watch.h"

namespace rdmatrain {

class Stager;

/* The communicator of a backend, shared with its works. Whoever calls into it is counted as a user;
 * close() makes the users return and then frees, so a work that outlives its backend is harmless. */
class CommOwner
{
  public:
    /* Takes ownership of comm, and is known to close_all(). */
    static std::shared_ptr<CommOwner> make(rdt_comm_t *comm);
    explicit CommOwner(rdt_comm_t *comm);
    ~CommOwner();
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
    /* This is a child of the rank's process. */
    bool is_forked() const;
    Watch &watch() const { return *watch_; }
    Stager &stager() const { return *stager_; }

  private:
    rdt_comm_t *comm_;
    const std::unique_ptr<Stager> stager_;
    const std::shared_ptr<Watch> watch_;
    std::atomic<int> users_{0};
    std::atomic<bool> closing_{false};
    const int pid_;
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
    c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;
    int sourceRank() const override;
    float getDuration() const override; /* milliseconds */
    uint64_t getSequencenumber() const override { return seq_; }
    void abort() override {}
    const TensorCall &call() const { return call_; }

  protected:
    void tell_watch_of_begin();
    /* Ends the work, once: copies results back, unless there is an error, and tells everybody. */
    void conclude(std::exception_ptr error);
    virtual void copy_back();
    [[noreturn]] void throw_wait_timeout(std::chrono::milliseconds timeout) const;
    /* Of the results; empty for the CPU's. */
    virtual std::vector<c10::Device> devices() const { return {}; }
    virtual void settle(c10::ivalue::Future &future, const std::exception_ptr &error);

    const std::shared_ptr<CommOwner> owner_;
    TensorCall call_;
    rdt_work_t *work_ = nullptr; /* written by post before anybody else has the work */

  private:
    static void done(void *self, rdt_status_t status, const char *text) noexcept;
    void tell_watch_of_end();
    bool is_over() const;

    const uint64_t seq_;
    c10::intrusive_ptr<c10::ivalue::Future> future_; /* made on demand, under mutex_ */
    std::atomic<bool> has_future_{false};            /* written under mutex_ */
    std::atomic<bool> future_done_{false};           /* somebody completes it: once */
    /* What the base class knows too, without its mutex: most works are waited for once. */
    enum class State { Pending, Succeeded, Failed };
    std::atomic<State> state_{State::Pending};
    using Clock = std::chrono::steady_clock;
    const bool watched_;
    Clock::time_point started_, finished_; /* when watched_; finished_ once it is over */
};

/* Several works as one, in order. */
class CoalescedWork : public c10d::Work
{
  public:
    /* title and inputs: for a profiler. */
    CoalescedWork(int rank, c10d::OpType op, std::vector<c10::intrusive_ptr<c10d::Work>> works,
                  const char *title = nullptr, const Tensors &inputs = {});

    bool wait(std::chrono::milliseconds timeout) override;
    void synchronize() override { wait(kNoTimeout); }
    bool isCompleted() override;
    bool isSuccess() const override;
    std::exception_ptr exception() const override;
    std::vector<at::Tensor> result() override;
    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
    c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;

  private:
    std::vector<c10::intrusive_ptr<c10d::Work>> works_;
    std::atomic<bool> ended_{false}; /* somebody has waited, and tells the profiler */
};

/* Closes the communicators of all backends that live. */
void close_all();

[[noreturn]] void throw_status(rdt_status_t status, const char *text);
std::exception_ptr error_of(rdt_status_t status, const char *text); /* nullptr for RDT_OK */

} // namespace rdmatrain
