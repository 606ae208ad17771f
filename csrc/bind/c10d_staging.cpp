/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_staging.h"

#include <unistd.h>

#include <ATen/DeviceAccelerator.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/StreamGuard.h>

namespace rdmatrain {

namespace {

/* Of all shards together: long enough to hide what a copy and a post cost, short enough that the
 * first and the last, which overlap with nothing, are little of a large tensor. */
constexpr uint64_t kChunkBytes = 4 << 20;
constexpr uint64_t kChunkAlign = 64; /* elements */

/* Copies are the library's, whatever modes the program has set: no autograd, no Python. */
struct PlainDispatch {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    c10::impl::ExcludeDispatchKeyGuard no_python{c10::python_ks};
};

at::Tensor flat_bytes(const at::Tensor &tensor)
{
    return tensor.detach().view({-1}).view(at::kByte);
}

/* How many elements of each shard a chunk has. Only what each rank knows to be the same on all is cut:
 * of a gather or a scatter the root alone knows whether its shards differ in size. */
uint64_t chunk_elements(const rdt_call_t &call, uint32_t world)
{
    uint64_t element = rdt_dtype_bytes(call.dtype);

    if (call.in_counts != nullptr || call.out_counts != nullptr) return call.count;
    switch (call.coll) {
    case RDT_ALL_GATHER:
    case RDT_REDUCE_SCATTER:
        element *= world;
        break;
    case RDT_ALL_REDUCE:
    case RDT_REDUCE:
    case RDT_BROADCAST:
        break;
    default:
        return call.count;
    }
    return std::max(kChunkBytes / element / kChunkAlign, uint64_t{1}) * kChunkAlign;
}

/* Pointers to a part of each shard: of one tensor, or of tensors that lie apart. */
std::vector<const void *> parts_of(const void *all, const void *const *shards, size_t world,
                                   uint64_t stride, uint64_t offset)
{
    std::vector<const void *> parts;

    for (size_t rank = 0; rank < world; rank++) {
        const void *shard =
            shards != nullptr ? shards[rank] : static_cast<const char *>(all) + rank * stride;

        parts.push_back(static_cast<const char *>(shard) + offset);
    }
    return parts;
}

} // namespace

bool can_stage(const at::Device &device)
{
    return at::accelerator::isAccelerator(device.type()) &&
           c10::impl::hasDeviceGuardImpl(device.type());
}

void *stage(TensorCall &call, const at::Tensor &tensor, bool load, bool store)
{
    PlainDispatch plain;
    auto options = at::TensorOptions(at::kCPU).dtype(at::kByte).pinned_memory(true);
    at::Tensor host = at::empty({static_cast<int64_t>(tensor.nbytes())}, options);

    call.staged.push_back({flat_bytes(tensor), host, load, store});
    return host.data_ptr();
}

std::string why_not_staged(const TensorCall &call)
{
    at::Device device = call.staged.front().device.device();

    for (const at::Tensor &tensor : call.held)
        if (tensor.device() != device)
            return "tensors of one call must be on one device, and these are on " + device.str() +
                   " and " + tensor.device().str();
    c10::impl::VirtualGuardImpl impl(device.type());
    if (impl.isStreamCapturing(impl.getStream(device)))
        return "the current stream of " + device.str() +
               " is recording a graph, which cannot hold what the host does in a collective";
    return "";
}

void StagedWork::begin(uint32_t world, std::optional<CopyStreams> streams)
{
    rdt_call_t &call = call_.call;
    /* What has no tensor on a device may be posted directly on another rank, so it stays whole. */
    uint64_t step = streams ? chunk_elements(call, world) : call.count;

    streams_ = streams;
    world_ = world;
    if (call.timeout_ns != RDT_NO_TIMEOUT)
        deadline_ = std::chrono::steady_clock::now() + std::chrono::nanoseconds(call.timeout_ns);
    if (call.refusal != nullptr) { /* the caller's, who does not wait */
        refusal_ = call.refusal;
        call.refusal = refusal_.c_str();
    }
    uint64_t at = 0;
    do {
        uint64_t count = std::min(step, call.count - at);

        chunks_.push_back({this, at, count, std::nullopt});
        at += count;
    } while (at < call.count);
    if (chunks_.size() > 1) { /* so that the first chunk tells apart tensors of different sizes */
        auto total = static_cast<int64_t>(call.count);
        rdt_shape_t none{};

        if (memcmp(&call.shape, &none, sizeof(none)) == 0) call.shape = rdt_shape_pack(&total, 1);
    }
    if (streams_) copy_down();
    tell_watch_of_begin();
}

void StagedWork::copy_down()
{
    at::Device device = streams_->down.device();
    c10::impl::VirtualGuardImpl impl(device.type());
    PlainDispatch plain;

    start_.emplace(device.type());
    start_->record(impl.getStream(device));
    start_->block(streams_->down);
    end_.emplace(device.type());
    /* Their memory may be freed as soon as this work is, which is before the copies have happened. */
    for (const StagedBuffer &buffer : call_.staged) {
        const c10::DataPtr &data = buffer.device.storage().data_ptr();

        if (buffer.load) impl.recordDataPtrOnStream(data, streams_->down);
        if (buffer.store) impl.recordDataPtrOnStream(data, streams_->up);
    }
    for (auto &[strided, copy] : call_.copy_back)
        impl.recordDataPtrOnStream(strided.storage().data_ptr(), streams_->up);
    auto is_loaded = [](const StagedBuffer &buffer) { return buffer.load; };
    if (std::none_of(call_.staged.begin(), call_.staged.end(), is_loaded)) return;
    c10::StreamGuard guard(streams_->down);
    for (Chunk &chunk : chunks_) {
        copy_chunk(chunk, false);
        chunk.down.emplace(device.type());
        chunk.down->record(streams_->down);
    }
}

/* Queues the copies of a chunk on the current stream. */
void StagedWork::copy_chunk(const Chunk &chunk, bool up) const
{
    uint64_t element = rdt_dtype_bytes(call_.call.dtype);
    auto stride = static_cast<int64_t>(call_.call.count * element);

    for (const StagedBuffer &buffer : call_.staged) {
        const at::Tensor &to = up ? buffer.device : buffer.host;
        const at::Tensor &from = up ? buffer.host : buffer.device;

        if (!(up ? buffer.store : buffer.load)) continue;
        if (chunks_.size() == 1) {
            to.copy_(from, true);
            continue;
        }
        for (int64_t shard = 0; shard < to.numel(); shard += stride) {
            int64_t first = shard + static_cast<int64_t>(chunk.begin * element);
            auto length = static_cast<int64_t>(chunk.count * element);

            to.narrow(0, first, length).copy_(from.narrow(0, first, length), true);
        }
    }
}

void StagedWork::post(rdt_comm_t *comm) noexcept
{
    try {
        for (Chunk &chunk : chunks_) {
            if (comm == nullptr) throw_status(RDT_CLOSED, "the process group was destroyed");
            await_device(chunk, comm);
            post_chunk(chunk, comm);
        }
    } catch (...) {
        fail(std::current_exception());
    }
    release();
}

/* Returns when the chunk is on the host, or early when the communicator has failed. By polling: a
 * host that waits for an event waits for ever when the device hangs. */
void StagedWork::await_device(const Chunk &chunk, rdt_comm_t *comm) const
{
    if (!chunk.down) return;
    for (unsigned round = 0; !chunk.down->query(); round++) {
        if (rdt_comm_status(comm, nullptr, 0) != RDT_OK) return;
        if (left_ns() == 0) {
            std::string text = std::string("the device had not computed the tensors of ") +
                               rdt_coll_name(call_.call.coll) + " within " +
                               std::to_string(call_.call.timeout_ns / 1000000u) + " ms";

            rdt_comm_abort(comm, text.c_str()); /* the others have posted what this rank has not */
            throw_status(RDT_TIMEOUT, ("rank " + std::to_string(rank_) + ": " + text).c_str());
        }
        if (round < 50)
            std::this_thread::yield();
        else
            std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

/* The call of a chunk; parts is what it points to. */
rdt_call_t StagedWork::call_of(const Chunk &chunk, TensorCall::Shards &parts) const
{
    rdt_call_t call = call_.call;

    if (chunks_.size() == 1) return call;
    uint64_t element = rdt_dtype_bytes(call.dtype);
    uint64_t stride = call.count * element, offset = chunk.begin * element;
    call.count = chunk.count;
    if (call.coll == RDT_REDUCE_SCATTER) {
        parts.in = parts_of(call.in, call.in_shards, world_, stride, offset);
        call.in_shards = parts.in.data();
        call.in = nullptr;
    }
    if (call.coll == RDT_ALL_GATHER) {
        for (const void *part : parts_of(call.out, call.out_shards, world_, stride, offset))
            parts.out.push_back(const_cast<void *>(part));
        call.out_shards = parts.out.data();
        call.out = nullptr;
    }
    if (call.in != nullptr) call.in = static_cast<const char *>(call.in) + offset;
    if (call.out != nullptr) call.out = static_cast<char *>(call.out) + offset;
    return call;
}

void StagedWork::post_chunk(Chunk &chunk, rdt_comm_t *comm)
{
    TensorCall::Shards parts;
    rdt_call_t call = call_of(chunk, parts);

    call.timeout_ns = left_ns();
    call.background = true; /* who waits, waits for a stream */
    call.done = &StagedWork::chunk_done;
    call.arg = &chunk;
    pending_++;
    c10::intrusive_ptr<StagedWork>::reclaim_copy(this).release(); /* chunk_done gives it back */
    rdt_work_t *handle;
    rdt_status_t st = rdt_post(comm, &call, &handle);
    if (st == RDT_OK) { /* a recv, which must be asked for its sender, has one chunk */
        if (work_ == nullptr)
            work_ = handle;
        else
            rdt_work_free(handle);
        return;
    }
    std::string text = rdt_last_error();
    pending_--;
    c10::intrusive_ptr<StagedWork>::reclaim(this); /* the stager has another one */
    /* The others may post the rest, which nobody here will answer. */
    if (chunk.begin > 0) rdt_comm_abort(comm, text.c_str());
    throw_status(st, text.c_str());
}

uint64_t StagedWork::left_ns() const
{
    if (!deadline_) return RDT_NO_TIMEOUT;
    auto left = *deadline_ - std::chrono::steady_clock::now();
    return left.count() > 0 ? static_cast<uint64_t>(left.count()) : 0;
}

/* On whatever thread drives the communicator: it only queues copies. */
void StagedWork::chunk_done(void *arg, rdt_status_t status, const char *text) noexcept
{
    auto &chunk = *static_cast<Chunk *>(arg);
    auto self = c10::intrusive_ptr<StagedWork>::reclaim(chunk.work);

    if (status != RDT_OK) {
        self->fail(error_of(status, text));
    } else if (self->streams_) {
        try {
            PlainDispatch plain;
            c10::StreamGuard guard(self->streams_->up);

            self->start_->block(self->streams_->up);
            self->copy_chunk(chunk, true);
        } catch (...) {
            self->fail(std::current_exception());
        }
    }
    self->release();
}

void StagedWork::fail(std::exception_ptr error)
{
    std::lock_guard<std::mutex> lock(mutex_);

    if (!first_error_) first_error_ = std::move(error);
}

/* Whoever is last ends the work: then nothing reads or writes its buffers any more. */
void StagedWork::release()
{
    if (--pending_ > 0) return;
    try {
        conclude(first_error_);
    } catch (const std::exception &error) {
        TORCH_WARN("rdmatrain: completing a collective failed: ", error.what());
    }
}

void StagedWork::copy_back()
{
    if (!streams_) return Work::copy_back();
    PlainDispatch plain;
    c10::StreamGuard guard(streams_->up);

    Work::copy_back();
    end_->record(streams_->up);
}

std::vector<c10::Device> StagedWork::devices() const
{
    if (!streams_) return {};
    return {streams_->up.device()};
}

/* A future notes what the current streams have in their queues: its callbacks wait for that. */
void StagedWork::settle(c10::ivalue::Future &future, const std::exception_ptr &error)
{
    c10::OptionalStreamGuard guard;

    if (streams_) guard.reset_stream(streams_->up);
    Work::settle(future, error);
}

bool StagedWork::wait(std::chrono::milliseconds timeout)
{
    {
        CommOwner::User user(*owner_);

        if (user.comm() != nullptr && rdt_comm_is_forked(user.comm()))
            throw_status(RDT_CLOSED,
                         "a process that was forked from a rank cannot wait for its work");
    }
    std::unique_lock<std::mutex> lock(mutex_);
    auto is_over = [this] { return completed_; };

    if (timeout == kNoTimeout || timeout.count() < 0)
        cv_.wait(lock, is_over);
    else if (!cv_.wait_for(lock, timeout, is_over))
        throw_wait_timeout(timeout);
    if (exception_) std::rethrow_exception(exception_);
    if (streams_) {
        c10::impl::VirtualGuardImpl impl(streams_->up.device_type());

        end_->block(impl.getStream(streams_->up.device()));
    }
    return true;
}

bool StagedWork::isCompleted()
{
    return Work::isCompleted() && (!streams_ || !isSuccess() || end_->query());
}

/* Then its mutex may be locked for ever. */
bool Stager::is_forked() const
{
    return pid_ != 0 && pid_ != getpid();
}

void Stager::submit(const c10::intrusive_ptr<StagedWork> &work, uint32_t world)
{
    if (is_forked())
        throw_status(RDT_CLOSED, "a process that was forked from a rank has no part in its group");
    std::lock_guard<std::mutex> lock(mutex_);

    if (stopping_) throw_status(RDT_CLOSED, "the process group was destroyed");
    work->begin(world, streams_for(work->call()));
    if (!thread_.joinable()) {
        pid_ = getpid();
        thread_ = std::thread([this] { run(); });
    }
    num_queued_++;
    queue_.push_back(work);
    ready_.notify_one();
}

std::optional<CopyStreams> Stager::streams_for(const TensorCall &call)
{
    if (call.staged.empty()) return std::nullopt;
    at::Device device = call.staged.front().device.device();
    c10::impl::VirtualGuardImpl impl(device.type());
    auto found = streams_.find(device.index());

    if (found == streams_.end())
        found = streams_
                    .emplace(device.index(), CopyStreams{impl.getStreamFromGlobalPool(device),
                                                         impl.getStreamFromGlobalPool(device)})
                    .first;
    return found->second;
}

void Stager::run()
{
    std::unique_lock<std::mutex> lock(mutex_);

    for (;;) {
        ready_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (queue_.empty()) return;
        auto work = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        {
            CommOwner::User user(owner_);

            work->post(user.comm());
        }
        num_queued_--; /* what is called from here on is posted later, so it is in order */
        work.reset();  /* may be the last to hold tensors, which asks for the GIL */
        lock.lock();
    }
}

void Stager::stop()
{
    if (is_forked()) {
        if (thread_.joinable()) thread_.detach(); /* it is not in this process */
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);

        stopping_ = true;
        ready_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
}

} // namespace rdmatrain
