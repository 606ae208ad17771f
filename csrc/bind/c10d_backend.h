/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "c10d_staging.h"

namespace rdmatrain {

using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using TensorLists = std::vector<Tensors>;
using Splits = std::vector<int64_t>;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;
using StorePtr = c10::intrusive_ptr<c10d::Store>;
using OptionsPtr = c10::intrusive_ptr<c10d::Backend::Options>;

/* What a group can be asked for when it is made. */
struct GroupOptions : c10d::Backend::Options {
    /* timeout: kUnsetTimeout for that of the group. transport, require: empty for what the setting
     * says. */
    explicit GroupOptions(std::chrono::milliseconds timeout, std::string transport,
                          std::string require)
        : c10d::Backend::Options("rdmatrain", timeout), transport(std::move(transport)),
          require(std::move(require))
    {
    }

    std::string transport, require;
};

/* Translates c10d's calls into rdt_call_t, posts them, and wraps what comes back. It keeps no state
 * beyond handles and holds no algorithm. Tensors are the CPU's or an accelerator's, which are staged
 * (c10d_staging.h); a strided one goes through a copy.
 * What cannot be done here is refused with an error that all ranks see, see refuse().
 *
 * c10d_backend.cpp: life and posting; c10d_checks.cpp: refusals; c10d_reduce.cpp, c10d_move.cpp: the
 * collectives; c10d_sparse.cpp; c10d_barrier.cpp; c10d_groups.cpp: groups made from this one. */
class Backend : public c10d::Backend
{
  public:
    /* Takes ownership of comm, which must be connected. The store is the group's: for what is agreed
     * on without the transports. Options have a timeout here. note is Python's, and kept for it. */
    Backend(StorePtr store, int rank, int size, rdt_comm_t *comm, const GroupOptions &options,
            std::string note);
    ~Backend() override;

    const std::string getBackendName() const override { return "rdmatrain"; }
    /* A copy: c10d writes to it when it splits or merges a group. */
    OptionsPtr getBackendOptions() override;
    void setTimeout(std::chrono::milliseconds timeout) override { timeout_ = timeout; }
    void setSequenceNumberForGroup() override {} /* starts at 0 everywhere */
    uint64_t getSequenceNumberForGroup() override { return seq_; }

    WorkPtr allreduce(Tensors &tensors, const c10d::AllreduceOptions &opts) override;
    WorkPtr allreduce_sparse(Tensors &tensors, const c10d::AllreduceOptions &opts) override;
    WorkPtr allreduce_coalesced(Tensors &tensors,
                                const c10d::AllreduceCoalescedOptions &opts) override;
    WorkPtr reduce(Tensors &tensors, const c10d::ReduceOptions &opts) override;
    WorkPtr reduce_scatter(Tensors &outputs, TensorLists &inputs,
                           const c10d::ReduceScatterOptions &opts) override;
    WorkPtr _reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                 const c10d::ReduceScatterOptions &opts) override;
    WorkPtr reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                            const c10d::ReduceScatterOptions &opts) override;

    WorkPtr broadcast(Tensors &tensors, const c10d::BroadcastOptions &opts) override;
    WorkPtr allgather(TensorLists &outputs, Tensors &inputs,
                      const c10d::AllgatherOptions &opts) override;
    WorkPtr allgather_coalesced(TensorLists &outputs, Tensors &inputs,
                                const c10d::AllgatherOptions &opts) override;
    WorkPtr _allgather_base(at::Tensor &output, at::Tensor &input,
                            const c10d::AllgatherOptions &opts) override;
    WorkPtr allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                            const c10d::AllgatherOptions &opts) override;
    WorkPtr gather(TensorLists &outputs, Tensors &inputs, const c10d::GatherOptions &opts) override;
    WorkPtr scatter(Tensors &outputs, TensorLists &inputs,
                    const c10d::ScatterOptions &opts) override;
    WorkPtr alltoall(Tensors &outputs, Tensors &inputs, const c10d::AllToAllOptions &opts) override;
    WorkPtr alltoall_base(at::Tensor &output, at::Tensor &input, Splits &output_splits,
                          Splits &input_splits, const c10d::AllToAllOptions &opts) override;
    WorkPtr send(Tensors &tensors, int dst, int tag) override;
    WorkPtr recv(Tensors &tensors, int src, int tag) override;
    WorkPtr recvAnysource(Tensors &tensors, int tag) override;

    WorkPtr barrier(const c10d::BarrierOptions &opts) override;
    void monitoredBarrier(const c10d::BarrierOptions &opts, bool wait_all_ranks) override;

    /* Groups of some ranks of this one, or of this one and others. Each rank of the new group calls
     * it; one that is not in it gets nullptr from split, and must not call the others. */
    BackendPtr split(const StorePtr &store, const std::vector<int> &ranks,
                     const OptionsPtr &opts) override;
    BackendPtr merge(const StorePtr &store, const OptionsPtr &opts, const int &rank,
                     const int &size) override;
    bool supportsShrinking() const override { return true; }
    BackendPtr shrink(const std::vector<int64_t> &ranks_to_exclude, int flags,
                      const OptionsPtr &opts) override;

    /* Name of the transport that joins this rank to another one. */
    std::string transport(int rank) const;
    /* What this rank exchanged with another one, and over which ports. */
    rdt_peer_stats_t stats(int rank) const;
    const std::string &note() const { return note_; }

    /* These never throw: a throw would leave c10d skipping every later collective in silence. */
    void startCoalescing() override;
    WorkPtr endCoalescing() override;

    bool supportsTensorAlloc(c10::DeviceIndex device) override;
    at::Tensor allocateTensor(long size, at::TensorOptions options) override;
    std::unordered_map<std::string, uint64_t> getMemoryStats() override;

    void registerOnCompletionHook(Watch::Hook &&hook) override;
    void waitForPendingWorks() override { owner_->watch().wait(); }
    void enableCollectivesTiming() override { owner_->watch().turn_on(); }
    c10d::ErrorType getError() override;
    void abort() override;
    void shutdown() override;

  private:
    /* One collective's context: for the texts of errors, and for telling the other ranks. */
    struct Checked {
        Backend &backend;
        c10d::OpType op;
        const char *name;
        const char *title; /* for profilers; none for a part of several */
        bool collective = true;

        [[noreturn]] void refuse(const std::string &reason) const;
        void tensor(const at::Tensor &tensor) const;
        const at::Tensor &only(const Tensors &tensors) const;
        void dtype(const char *what, const at::Tensor &tensor, const at::Tensor &like) const;
        /* One tensor for each rank, with like's dtype; of this rank, with its elements. */
        void each(const char *what, const Tensors &tensors, const at::Tensor &like) const;
        /* world times the elements of part. */
        void whole(const char *what, const at::Tensor &all, const at::Tensor &part) const;
        uint32_t root(int64_t rank) const;
        void reduction(TensorCall &call, const at::Tensor &tensor, const c10d::ReduceOp &op) const;
        /* Counts of elements for splits of the first dimension. */
        std::vector<uint64_t> split(const char *what, const at::Tensor &tensor,
                                    const Splits &splits) const;
    };

    TensorCall to_all_reduce(const Checked &check, const at::Tensor &tensor,
                             const c10d::ReduceOp &op);
    TensorCall to_reduce_scatter(const Checked &check, const at::Tensor &output,
                                 const at::Tensor &input, const c10d::ReduceOp &op);
    TensorCall to_all_gather(const Checked &check, const Tensors &outputs, const at::Tensor &input);
    TensorCall to_all_gather(const Checked &check, const at::Tensor &output,
                             const at::Tensor &input);
    std::vector<std::pair<int64_t, int64_t>>
    sparse_sizes(const Checked &check, const at::Tensor &tensor, std::chrono::milliseconds timeout);

    WorkPtr run(const Checked &check, TensorCall &&call, std::chrono::milliseconds timeout,
                bool async);
    c10::intrusive_ptr<Work> post(const Checked &check, TensorCall &&call);
    WorkPtr run_all(const Checked &check, std::vector<TensorCall> &&calls,
                    std::chrono::milliseconds timeout, bool async);

    void report_arrival(std::chrono::milliseconds timeout);
    void throw_if_failed();
    std::vector<int> await_arrivals(std::chrono::milliseconds timeout);
    void answer_arrivals(const std::vector<int> &missing, const std::string &verdict);
    std::string wait_for_verdict(const std::string &key, std::chrono::milliseconds barrier_timeout);
    std::vector<uint64_t> global_ranks(const std::vector<int> &ranks) const;
    c10::intrusive_ptr<GroupOptions> derived_options(const OptionsPtr &opts,
                                                     std::vector<uint64_t> global_ranks) const;

    const StorePtr store_;
    const std::shared_ptr<CommOwner> owner_;
    const GroupOptions options_; /* but for the timeout */
    const std::string note_;
    std::atomic<std::chrono::milliseconds> timeout_;
    std::atomic<uint64_t> seq_{0};
    std::atomic<uint64_t> num_monitored_{0};

    std::mutex mutex_; /* of what follows */
    std::atomic<bool> coalescing_{false};
    std::vector<WorkPtr> coalesced_;
    /* The last split: c10d splits once for each device type, and the backend serves all of them. */
    c10::weak_intrusive_ptr<c10d::Store> split_store_;
    c10::weak_intrusive_ptr<c10d::Backend> split_;
};

} // namespace rdmatrain
