/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "c10d_work.h"

namespace rdmatrain {

/* Translates c10d's calls into rdt_call_t, posts them, and wraps what comes back. It keeps no state
 * beyond handles and holds no algorithm. Tensors are CPU tensors; a strided one goes through a copy.
 * What cannot be done here is refused with an error that all ranks see, see refuse(). */
class Backend : public c10d::Backend
{
  public:
    struct Options : c10d::Backend::Options {
        explicit Options(std::chrono::milliseconds timeout)
            : c10d::Backend::Options("rdmatrain", timeout)
        {
        }
    };

    /* Takes ownership of comm, which must be connected. */
    Backend(int rank, int size, rdt_comm_t *comm, std::chrono::milliseconds timeout);
    ~Backend() override;

    const std::string getBackendName() const override { return "rdmatrain"; }
    c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override { return options_; }
    void setTimeout(std::chrono::milliseconds timeout) override { options_->timeout = timeout; }
    void setSequenceNumberForGroup() override {} /* starts at 0 everywhere */
    uint64_t getSequenceNumberForGroup() override { return seq_; }

    c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor> &tensors,
                                             const c10d::AllreduceOptions &opts) override;
    c10::intrusive_ptr<c10d::Work>
    allreduce_coalesced(std::vector<at::Tensor> &tensors,
                        const c10d::AllreduceCoalescedOptions &opts) override;
    c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor> &tensors,
                                             const c10d::BroadcastOptions &opts) override;
    c10::intrusive_ptr<c10d::Work> allgather(std::vector<std::vector<at::Tensor>> &outputs,
                                             std::vector<at::Tensor> &inputs,
                                             const c10d::AllgatherOptions &opts) override;
    c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor &output, at::Tensor &input,
                                                   const c10d::AllgatherOptions &opts) override;
    c10::intrusive_ptr<c10d::Work> reduce_scatter(std::vector<at::Tensor> &outputs,
                                                  std::vector<std::vector<at::Tensor>> &inputs,
                                                  const c10d::ReduceScatterOptions &opts) override;
    c10::intrusive_ptr<c10d::Work>
    _reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                         const c10d::ReduceScatterOptions &opts) override;
    c10::intrusive_ptr<c10d::Work>
    allgather_into_tensor_coalesced(std::vector<at::Tensor> &outputs,
                                    std::vector<at::Tensor> &inputs,
                                    const c10d::AllgatherOptions &opts) override;
    c10::intrusive_ptr<c10d::Work>
    reduce_scatter_tensor_coalesced(std::vector<at::Tensor> &outputs,
                                    std::vector<at::Tensor> &inputs,
                                    const c10d::ReduceScatterOptions &opts) override;
    c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions &opts) override;
    c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor> &tensors, int dst,
                                        int tag) override;
    c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor> &tensors, int src,
                                        int tag) override;

    /* Name of the transport that joins this rank to another one. */
    std::string transport(int rank) const;

    /* These never throw: a throw would leave c10d skipping every later collective in silence. */
    void startCoalescing() override;
    c10::intrusive_ptr<c10d::Work> endCoalescing() override;

    bool supportsTensorAlloc(c10::DeviceIndex device) override;
    at::Tensor allocateTensor(long size, at::TensorOptions options) override;

    void abort() override;
    void shutdown() override;

  private:
    /* One collective's context: for the texts of errors, and for telling the other ranks. */
    struct Checked {
        Backend &backend;
        c10d::OpType op;
        const char *name;
        bool collective;

        [[noreturn]] void refuse(const std::string &reason) const;
        void tensor(const at::Tensor &tensor) const;
        const at::Tensor &only(const std::vector<at::Tensor> &tensors) const;
        rdt_dtype_t reducible(const at::Tensor &tensor) const;
        rdt_redop_t redop(const c10d::ReduceOp &op) const;
    };

    c10::intrusive_ptr<c10d::Work> run(const Checked &check, const char *title, TensorCall &&call,
                                       std::chrono::milliseconds timeout, bool async);

    std::shared_ptr<CommOwner> owner_;
    c10::intrusive_ptr<Options> options_;
    std::atomic<uint64_t> seq_{0};
    bool coalescing_ = false;
    std::vector<c10::intrusive_ptr<c10d::Work>> coalesced_;
};

} // namespace rdmatrain
