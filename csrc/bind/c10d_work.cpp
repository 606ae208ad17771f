/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_work.h"

#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <thread>

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>
#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>

namespace rdmatrain {

void throw_status(rdt_status_t status, const char *text)
{
    if (rdt_status_scope(status) == std::string("CALL")) TORCH_CHECK(false, "rdmatrain: ", text);
    C10_THROW_ERROR(DistBackendError, std::string("rdmatrain: ") + text);
}

namespace {

/* Where futures complete: their callbacks are the user's, and may wait for other collectives or
 * destroy the group, which neither the progress thread nor a thread that drives may do. A callback
 * that blocks keeps its thread, and the next one gets another. */
class CallbackPool
{
  public:
    /* Never destroyed: its threads may outlive every other static. */
    static CallbackPool &instance()
    {
        static auto *pool = new CallbackPool;

        return *pool;
    }

    void run(std::function<void()> task)
    {
        std::lock_guard<std::mutex> lock(mutex_);

        tasks_.push_back(std::move(task));
        if (tasks_.size() > num_idle_) std::thread([this] { work(); }).detach();
        ready_.notify_one();
    }

    /* Waits until all callbacks have returned, but not for long, and not for the one that calls:
     * Python must not end while one of them wants the GIL. */
    void drain()
    {
        std::unique_lock<std::mutex> lock(mutex_);

        if (in_callback()) return;
        drained_.wait_for(lock, std::chrono::seconds(2),
                          [this] { return tasks_.empty() && num_running_ == 0; });
    }

  private:
    static bool &in_callback()
    {
        static thread_local bool in = false;

        return in;
    }

    void work()
    {
        std::unique_lock<std::mutex> lock(mutex_);

        in_callback() = true;

        for (;;) {
            num_idle_++;
            ready_.wait(lock, [this] { return !tasks_.empty(); });
            num_idle_--;
            num_running_++;
            auto task = std::move(tasks_.front());
            tasks_.pop_front();
            lock.unlock();
            run_one(task);
            task = nullptr; /* what it holds is let go without the lock */
            lock.lock();
            num_running_--;
            drained_.notify_all();
        }
    }

    static void run_one(const std::function<void()> &task) noexcept
    {
        try {
            task();
        } catch (const std::exception &error) {
            TORCH_WARN("rdmatrain: a callback of a collective failed: ", error.what());
        } catch (...) {
            TORCH_WARN("rdmatrain: a callback of a collective failed");
        }
    }

    std::mutex mutex_;
    std::condition_variable ready_, drained_;
    std::deque<std::function<void()>> tasks_;
    size_t num_idle_ = 0, num_running_ = 0;
};

} // namespace

static void close_comm(rdt_comm_t *comm, const std::atomic<int> &users)
{
    if (rdt_comm_is_forked(comm)) return; /* users that were counted before the fork never leave */
    rdt_comm_abort(comm, "the process group was destroyed");
    while (users > 0)
        usleep(100);
    rdt_comm_close(comm);
    CallbackPool::instance().drain();
}

void CommOwner::close()
{
    if (closing_.exchange(true)) return;
    if (Py_IsInitialized() && PyGILState_Check()) {
        pybind11::gil_scoped_release release;
        close_comm(comm_, users_);
    } else {
        close_comm(comm_, users_);
    }
}

/* What a profiler is told of the inputs. Without one, the record is not even made: that would cost
 * more than a small collective does. */
static std::optional<std::vector<at::Tensor>> profiled(const TensorCall &call)
{
    if (!at::hasCallbacks()) return std::nullopt;
    return std::vector<at::Tensor>(call.held.begin(), call.held.end());
}

Work::Work(int rank, c10d::OpType op, const char *title, std::shared_ptr<CommOwner> owner,
           TensorCall &&call, uint64_t seq)
    : c10d::Work(rank, op, at::hasCallbacks() ? title : nullptr, profiled(call)),
      owner_(std::move(owner)), call_(std::move(call)), seq_(seq)
{
}

Work::~Work()
{
    if (work_ != nullptr) rdt_work_free(work_);
}

void Work::post(const c10::intrusive_ptr<Work> &self)
{
    CommOwner::User user(*self->owner_);
    rdt_comm_t *comm = user.comm();
    rdt_call_t call = self->call_.call;
    rdt_status_t st;

    if (comm == nullptr) throw_status(RDT_CLOSED, "the process group was destroyed");
    /* done() gives this reference back. It may run before rdt_post returns, on any thread. */
    c10::intrusive_ptr<Work> keep = self;
    call.done = &Work::done;
    call.arg = keep.release();
    st = rdt_post(comm, &call, &self->work_);
    if (st == RDT_OK) return;
    std::string text = rdt_last_error();
    c10::intrusive_ptr<Work>::reclaim(static_cast<Work *>(call.arg));
    throw_status(st, text.c_str());
}

void Work::done(void *arg, rdt_status_t status, const char *text) noexcept
{
    auto self = c10::intrusive_ptr<Work>::reclaim(static_cast<Work *>(arg));

    try {
        self->conclude(status, text);
    } catch (const std::exception &error) {
        TORCH_WARN("rdmatrain: completing a collective failed: ", error.what());
    }
}

void Work::copy_back()
{
    if (call_.copy_back.empty()) return;
    at::NoGradGuard no_grad;
    for (auto &[strided, copy] : call_.copy_back)
        strided.copy_(copy);
}

void Work::conclude(rdt_status_t status, const char *text)
{
    std::exception_ptr error;

    try {
        if (status != RDT_OK) throw_status(status, text);
        copy_back();
    } catch (...) {
        error = std::current_exception();
    }
    finish(error);
    /* Who asks for the future from here on finds the work completed, and may be the one. */
    if (has_future_ && !future_done_.exchange(true)) complete_future(error);
    state_ = error ? State::Failed : State::Succeeded;
}

void Work::complete_future(const std::exception_ptr &error)
{
    CallbackPool::instance().run([future = future_, error, outputs = call_.outputs] {
        if (error)
            future->setError(error);
        else
            future->markCompleted(c10::IValue(outputs));
    });
}

bool Work::wait(std::chrono::milliseconds timeout)
{
    if (state_ == State::Pending) {
        CommOwner::User user(*owner_);
        uint64_t ns = timeout == kNoTimeout || timeout.count() < 0
                          ? RDT_NO_TIMEOUT
                          : static_cast<uint64_t>(timeout.count()) * 1000000u;

        if (user.comm() != nullptr && rdt_work_wait(work_, ns) == RDT_WAIT_TIMEOUT)
            throw_status(RDT_TIMEOUT, ("wait() ended after " + std::to_string(timeout.count()) +
                                       " ms, before the operation did")
                                          .c_str());
    }
    if (state_ == State::Succeeded) return true;
    if (!isCompleted() && rdt_work_test(work_) == RDT_AGAIN)
        throw_status(RDT_CLOSED, "a process that was forked from a rank cannot wait for its work");
    std::unique_lock<std::mutex> lock(mutex_);
    cv_.wait(lock, [this] { return completed_; });
    if (exception_) std::rethrow_exception(exception_);
    return true;
}

static c10::intrusive_ptr<c10::ivalue::Future> new_future()
{
    return c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
}

c10::intrusive_ptr<c10::ivalue::Future> Work::getFuture()
{
    std::lock_guard<std::mutex> lock(mutex_);

    if (future_ != nullptr) return future_;
    future_ = new_future();
    has_future_ = true;
    if (!completed_ || future_done_.exchange(true)) return future_;
    /* Nobody has it yet, so completing it under the lock runs no callback. */
    if (exception_)
        future_->setError(exception_);
    else
        future_->markCompleted(c10::IValue(call_.outputs));
    return future_;
}

CoalescedWork::CoalescedWork(int rank, std::vector<c10::intrusive_ptr<c10d::Work>> works)
    : c10d::Work(rank, c10d::OpType::COALESCED), works_(std::move(works))
{
}

bool CoalescedWork::wait(std::chrono::milliseconds timeout)
{
    for (auto &work : works_)
        work->wait(timeout);
    return true;
}

bool CoalescedWork::isCompleted()
{
    for (auto &work : works_)
        if (!work->isCompleted()) return false;
    return true;
}

bool CoalescedWork::isSuccess() const
{
    for (auto &work : works_)
        if (!work->isSuccess()) return false;
    return true;
}

std::vector<at::Tensor> CoalescedWork::result()
{
    std::vector<at::Tensor> all;

    for (auto &work : works_)
        for (auto &tensor : work->result())
            all.push_back(tensor);
    return all;
}

c10::intrusive_ptr<c10::ivalue::Future> CoalescedWork::getFuture()
{
    auto future = new_future();
    auto left = std::make_shared<std::atomic<size_t>>(works_.size());
    auto self = c10::intrusive_ptr<CoalescedWork>::reclaim_copy(this);

    if (works_.empty()) future->markCompleted(c10::IValue(result()));
    for (auto &work : works_)
        work->getFuture()->addCallback([future, left, self](c10::ivalue::Future &one) {
            if (one.hasError())
                future->setErrorIfNeeded(one.exception_ptr());
            else if (--*left == 0)
                future->markCompleted(c10::IValue(self->result()));
        });
    return future;
}

} // namespace rdmatrain
