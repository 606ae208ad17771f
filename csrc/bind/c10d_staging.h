/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <optional>
#include <thread>

#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include "c10d_work.h"

namespace rdmatrain {

/* Tensors of an accelerator, through pinned host memory and c10's interface to devices alone, so that
 * no vendor's headers are needed.
 *
 * A call is cut into chunks. For each: a copy to the host, on a stream of the stager that waits for
 * the caller's; when it has happened, a host collective; when that is over, a copy back on another
 * stream. So three stages overlap. Chunks depend on the call alone, and are the same on all ranks.
 *
 * Order: collectives must be posted in the order in which the program calls them, and a device is
 * slower than its host. So one thread for each backend posts them, in turn; calls with tensors of the
 * CPU go through it too while it has any, and are posted directly otherwise. The alternative, to wait
 * in the caller, would keep the host from running ahead of its device.
 */

/* Whether tensors of this device can be staged: an accelerator with streams. */
bool can_stage(const at::Device &device);

/* Pinned memory that stands for a contiguous tensor: its address, good while the call is. */
void *stage(TensorCall &call, const at::Tensor &tensor, bool load, bool store);

/* Why a call with staged tensors cannot run, or "". */
std::string why_not_staged(const TensorCall &call);

/* Copies of a device: one stream for each direction. A copy to the host waits for the device's
 * computations; one back must not wait behind it. */
struct CopyStreams {
    c10::Stream down, up;
};

/* A call that a stager posts. To wait for it is to wait until the copies back are in a stream's
 * queue, then to have the caller's current stream wait for them: the host does not. */
class StagedWork : public Work
{
  public:
    using Work::Work;

    /* Queues the copies to the host, behind the caller's current stream. Once, before post. */
    void begin(uint32_t world, std::optional<CopyStreams> streams);
    /* Waits for the device, and posts chunk by chunk; comm is nullptr when it is closed. Ends the
     * work if that fails. On the stager's thread. */
    void post(rdt_comm_t *comm) noexcept;

    bool wait(std::chrono::milliseconds timeout) override;
    bool isCompleted() override; /* the copies back have happened */

  protected:
    void copy_back() override;
    std::vector<c10::Device> devices() const override;
    void settle(c10::ivalue::Future &future, const std::exception_ptr &error) override;

  private:
    struct Chunk {
        StagedWork *work;
        uint64_t begin, count; /* elements of each shard */
        std::optional<c10::Event> down;
    };

    void copy_down();
    void copy_chunk(const Chunk &chunk, bool up) const;
    void await_device(const Chunk &chunk, rdt_comm_t *comm) const;
    rdt_call_t call_of(const Chunk &chunk, TensorCall::Shards &parts) const;
    void post_chunk(Chunk &chunk, rdt_comm_t *comm);
    uint64_t left_ns() const;
    static void chunk_done(void *arg, rdt_status_t status, const char *text) noexcept;
    void fail(std::exception_ptr error);
    void release();

    std::optional<CopyStreams> streams_;    /* none when all tensors are the CPU's */
    std::optional<c10::Event> start_, end_; /* of the caller's stream; of the copies back */
    std::deque<Chunk> chunks_;
    uint32_t world_ = 0;
    std::string refusal_;
    std::optional<std::chrono::steady_clock::time_point> deadline_;
    std::atomic<size_t> pending_{1}; /* chunks that are posted, and the posting itself */
    std::exception_ptr first_error_; /* under mutex_ */
};

/* Posts staged calls in order. Part of its CommOwner; its thread starts with the first call. */
class Stager
{
  public:
    explicit Stager(CommOwner &owner) : owner_(owner) {}
    ~Stager() { stop(); }
    Stager(const Stager &) = delete;
    Stager &operator=(const Stager &) = delete;

    /* While it has calls, later ones must queue behind them. */
    bool is_busy() const { return num_queued_ > 0; }
    void submit(const c10::intrusive_ptr<StagedWork> &work, uint32_t world);
    /* Ends the thread for good, once the owner has closed the communicator. Without the GIL. */
    void stop();

  private:
    bool is_forked() const;
    std::optional<CopyStreams> streams_for(const TensorCall &call);
    void run();

    CommOwner &owner_;
    std::mutex mutex_;
    std::condition_variable ready_;
    std::deque<c10::intrusive_ptr<StagedWork>> queue_;
    std::map<c10::DeviceIndex, CopyStreams> streams_;
    std::atomic<size_t> num_queued_{0};
    std::thread thread_;
    std::atomic<int> pid_{0}; /* whose thread it is; 0 for no thread */
    bool stopping_ = false;
};

} // namespace rdmatrain
