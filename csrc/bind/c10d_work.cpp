/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_work.h"

#include <unistd.h>

#include <algorithm>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>
#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>

#include "c10d_callbacks.h"
#include "c10d_staging.h"

namespace rdmatrain {

void throw_status(rdt_status_t status, const char *text)
{
    if (rdt_status_scope(status) == std::string("CALL")) TORCH_CHECK(false, "rdmatrain: ", text);
    C10_THROW_ERROR(DistBackendError, std::string("rdmatrain: ") + text);
}

std::exception_ptr error_of(rdt_status_t status, const char *text)
{
    if (status == RDT_OK) return nullptr;
    try {
        throw_status(status, text);
    } catch (...) {
        return std::current_exception();
    }
}

void Work::throw_wait_timeout(std::chrono::milliseconds timeout) const
{
    std::string text = "rank " + std::to_string(rank_) + ": wait() of " +
                       rdt_coll_name(call_.call.coll) + " ended after " +
                       std::to_string(timeout.count()) +
                       " ms, before the operation did, which goes on: wait again, or longer";

    throw_status(RDT_TIMEOUT, text.c_str());
}

static void close_comm(rdt_comm_t *comm, const std::atomic<int> &users)
{
    if (rdt_comm_is_forked(comm)) return; /* users that were counted before the fork never leave */
    rdt_comm_abort(comm, "the process group was destroyed");
    while (users > 0)
        usleep(100);
    rdt_comm_close(comm);
    (void)CallbackPool::instance().drain(std::chrono::seconds(2));
}

/* All that may still be open when the program ends. */
static std::mutex owners_mutex;
static std::vector<std::weak_ptr<CommOwner>> owners;

std::shared_ptr<CommOwner> CommOwner::make(rdt_comm_t *comm)
{
    auto owner = std::make_shared<CommOwner>(comm);
    std::lock_guard<std::mutex> lock(owners_mutex);

    owners.erase(
        std::remove_if(owners.begin(), owners.end(), [](auto &one) { return one.expired(); }),
        owners.end());
    owners.push_back(owner);
    return owner;
}

void close_all()
{
    std::vector<std::weak_ptr<CommOwner>> all;

    {
        std::lock_guard<std::mutex> lock(owners_mutex);

        all = owners;
    }
    for (auto &one : all)
        if (auto owner = one.lock()) owner->close();
    if (!CallbackPool::instance().drain(std::chrono::seconds(10)))
        TORCH_WARN(
            "rdmatrain: callbacks of collectives still run 10 s after the end of the program: "
            "Python may end with SIGABRT");
}

CommOwner::CommOwner(rdt_comm_t *comm)
    : comm_(comm), stager_(std::make_unique<Stager>(*this)), watch_(std::make_shared<Watch>()),
      pid_(getpid())
{
}

CommOwner::~CommOwner()
{
    close();
}

bool CommOwner::is_forked() const
{
    return pid_ != getpid();
}

void CommOwner::close()
{
    if (closing_.exchange(true)) return;
    std::optional<pybind11::gil_scoped_release> release;
    if (Py_IsInitialized() && PyGILState_Check()) release.emplace();
    close_comm(comm_, users_);
    stager_->stop();
}

/* What a profiler is told of the inputs. Without one, the record is not even made: that would cost
 * more than a small collective does. */
static std::optional<std::vector<at::Tensor>> profiled(const TensorCall &call)
{
    if (!at::hasCallbacks()) return std::nullopt;
    return Tensors(call.held.begin(), call.held.begin() + static_cast<long>(call.num_inputs));
}

Work::Work(int rank, c10d::OpType op, const char *title, std::shared_ptr<CommOwner> owner,
           TensorCall &&call, uint64_t seq)
    : c10d::Work(rank, op, at::hasCallbacks() ? title : nullptr, profiled(call)),
      owner_(std::move(owner)), call_(std::move(call)), seq_(seq), watched_(owner_->watch().is_on())
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
    self->tell_watch_of_begin();
    st = rdt_post(comm, &call, &self->work_);
    if (st == RDT_OK) return;
    std::string text = rdt_last_error();
    if (self->watched_) self->owner_->watch().cancel();
    c10::intrusive_ptr<Work>::reclaim(static_cast<Work *>(call.arg));
    throw_status(st, text.c_str());
}

void Work::done(void *arg, rdt_status_t status, const char *text) noexcept
{
    auto self = c10::intrusive_ptr<Work>::reclaim(static_cast<Work *>(arg));

    try {
        self->conclude(error_of(status, text));
    } catch (const std::exception &error) {
        TORCH_WARN("rdmatrain: completing a collective failed: ", error.what());
    }
}

void Work::copy_back()
{
    if (call_.copy_back.empty() && call_.finish == nullptr) return;
    /* Whatever thread this is: a tensor of the inference mode may be written all the same. */
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    if (call_.finish != nullptr) call_.finish();
    for (auto &[strided, copy] : call_.copy_back)
        strided.copy_(copy);
}

void Work::conclude(std::exception_ptr error)
{
    try {
        if (!error) copy_back();
    } catch (...) {
        error = std::current_exception();
    }
    tell_watch_of_end();
    finish(error);
    /* Who asks for the future from here on finds the work completed, and may be the one. */
    if (has_future_ && !future_done_.exchange(true))
        CallbackPool::instance().run([self = c10::intrusive_ptr<Work>::reclaim_copy(this), error] {
            self->settle(*self->future_, error);
        });
    state_ = error ? State::Failed : State::Succeeded;
}

void Work::settle(c10::ivalue::Future &future, const std::exception_ptr &error)
{
    if (error)
        future.setError(error);
    else
        future.markCompleted(c10::IValue(call_.outputs));
}

void Work::tell_watch_of_begin()
{
    if (!watched_) return;
    started_ = Clock::now();
    owner_->watch().begin();
}

void Work::tell_watch_of_end()
{
    if (!watched_) return;
    finished_ = Clock::now();
    owner_->watch().end(
        std::make_shared<c10d::WorkInfo>(opType_, seq_, started_, finished_, finished_ - started_));
}

bool Work::is_over() const
{
    std::lock_guard<std::mutex> lock(mutex_);

    return completed_;
}

float Work::getDuration() const
{
    TORCH_CHECK(watched_,
                "rdmatrain: a work knows how long it took when timing was enabled before");
    TORCH_CHECK(is_over(), "rdmatrain: a work that has not ended has no duration");
    return std::chrono::duration<float, std::milli>(finished_ - started_).count();
}

/* Of a recv from any source it is known when it has ended. */
int Work::sourceRank() const
{
    if (call_.call.peer != RDT_ANY_PEER) return static_cast<int>(call_.call.peer);
    TORCH_CHECK(is_over() && isSuccess(), "rdmatrain: nothing has been received yet");
    return static_cast<int>(rdt_work_peer(work_));
}

bool Work::wait(std::chrono::milliseconds timeout)
{
    if (state_ == State::Pending) {
        CommOwner::User user(*owner_);
        uint64_t ns = timeout == kNoTimeout || timeout.count() < 0
                          ? RDT_NO_TIMEOUT
                          : static_cast<uint64_t>(timeout.count()) * 1000000u;

        if (user.comm() != nullptr && rdt_work_wait(work_, ns) == RDT_WAIT_TIMEOUT)
            throw_wait_timeout(timeout);
    }
    if (state_ == State::Succeeded) return true;
    if (!isCompleted() && owner_->is_forked())
        throw_status(RDT_CLOSED, "a process that was forked from a rank cannot wait for its work");
    std::unique_lock<std::mutex> lock(mutex_);
    cv_.wait(lock, [this] { return completed_; });
    if (exception_) std::rethrow_exception(exception_);
    return true;
}

static c10::intrusive_ptr<c10::ivalue::Future> new_future(std::vector<c10::Device> devices)
{
    return c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                    std::move(devices));
}

c10::intrusive_ptr<c10::ivalue::Future> Work::getFuture()
{
    std::lock_guard<std::mutex> lock(mutex_);

    if (future_ != nullptr) return future_;
    future_ = new_future(devices());
    has_future_ = true;
    if (!completed_ || future_done_.exchange(true)) return future_;
    /* Nobody has it yet, so completing it under the lock runs no callback. */
    settle(*future_, exception_);
    return future_;
}

/* How a future ends, as a future that does not fail. */
static c10::intrusive_ptr<c10::ivalue::Future> result_of(c10::ivalue::Future &future)
{
    auto result = c10::make_intrusive<c10::ivalue::Future>(c10::IntType::get());

    future.addCallback([result](c10::ivalue::Future &ended) {
        auto value = ended.hasError() ? c10d::WorkResult::COMM_ERROR : c10d::WorkResult::SUCCESS;

        result->markCompleted(c10::IValue(static_cast<int64_t>(value)));
    });
    return result;
}

c10::intrusive_ptr<c10::ivalue::Future> Work::getFutureResult()
{
    return result_of(*getFuture());
}

CoalescedWork::CoalescedWork(int rank, c10d::OpType op,
                             std::vector<c10::intrusive_ptr<c10d::Work>> works, const char *title,
                             const Tensors &inputs)
    : c10d::Work(rank, op, at::hasCallbacks() ? title : nullptr, inputs), works_(std::move(works))
{
}

bool CoalescedWork::wait(std::chrono::milliseconds timeout)
{
    using namespace std::chrono;
    auto end = steady_clock::now() + timeout;

    for (auto &work : works_) {
        auto left = duration_cast<milliseconds>(end - steady_clock::now());

        work->wait(timeout == kNoTimeout ? timeout : std::max(left, milliseconds(1)));
    }
    if (!ended_.exchange(true)) finish();
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

std::exception_ptr CoalescedWork::exception() const
{
    for (auto &work : works_)
        if (auto error = work->exception()) return error;
    return nullptr;
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
    std::vector<c10::intrusive_ptr<c10::ivalue::Future>> parts;
    std::vector<c10::Device> devices;

    for (auto &work : works_) {
        parts.push_back(work->getFuture());
        auto &more = parts.back()->devices();
        devices.insert(devices.end(), more.begin(), more.end());
    }
    auto future = new_future(std::move(devices));
    auto left = std::make_shared<std::atomic<size_t>>(parts.size());
    auto self = c10::intrusive_ptr<CoalescedWork>::reclaim_copy(this);

    if (parts.empty()) future->markCompleted(c10::IValue(result()));
    for (auto &part : parts)
        part->addCallback([future, left, self, parts](c10::ivalue::Future &one) {
            if (one.hasError()) {
                future->setErrorIfNeeded(one.exception_ptr());
            } else if (--*left == 0) {
                for (auto &each : parts)
                    each->wait(); /* all are over: only the callback's streams wait */
                future->markCompleted(c10::IValue(self->result()));
            }
        });
    return future;
}

c10::intrusive_ptr<c10::ivalue::Future> CoalescedWork::getFutureResult()
{
    return result_of(*getFuture());
}

} // namespace rdmatrain
