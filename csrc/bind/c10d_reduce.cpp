/* SPDX-License-Identifier: Apache-2.0 */
/* The collectives that reduce. */
#include "c10d_backend.h"

namespace rdmatrain {

TensorCall Backend::to_all_reduce(const Checked &check, const at::Tensor &tensor,
                                  const c10d::ReduceOp &op)
{
    TensorCall call = call_for(RDT_ALL_REDUCE, tensor);

    check.reduction(call, tensor, op);
    compare_shape(call, tensor);
    call.call.out = writable(call, tensor, true);
    call.call.in = call.call.out;
    return call;
}

WorkPtr Backend::allreduce(Tensors &tensors, const c10d::AllreduceOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLREDUCE, "all_reduce", "rdmatrain:all_reduce"};

    if (tensors.size() == 1 && tensors[0].is_sparse()) return allreduce_sparse(tensors, opts);
    return run(check, to_all_reduce(check, check.only(tensors), opts.reduceOp), opts.timeout,
               opts.asyncOp);
}

WorkPtr Backend::allreduce_coalesced(Tensors &tensors, const c10d::AllreduceCoalescedOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLREDUCE_COALESCED, "all_reduce", "rdmatrain:all_reduce"};
    std::vector<TensorCall> calls;

    for (auto &tensor : tensors) {
        check.tensor(tensor);
        calls.push_back(to_all_reduce(check, tensor, opts.reduceOp));
    }
    return run_all(check, std::move(calls), opts.timeout, opts.asyncOp);
}

WorkPtr Backend::reduce(Tensors &tensors, const c10d::ReduceOptions &opts)
{
    Checked check{*this, c10d::OpType::REDUCE, "reduce", "rdmatrain:reduce"};
    const at::Tensor &tensor = check.only(tensors);
    TensorCall call = call_for(RDT_REDUCE, tensor);

    call.call.peer = check.root(opts.rootRank);
    check.reduction(call, tensor, opts.reduceOp);
    compare_shape(call, tensor);
    if (opts.rootRank == rank_) {
        call.call.out = writable(call, tensor, true);
        call.call.in = call.call.out;
    } else {
        call.call.in = readable(call, tensor);
        call.outputs.push_back(tensor);
    }
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

WorkPtr Backend::reduce_scatter(Tensors &outputs, TensorLists &inputs,
                                const c10d::ReduceScatterOptions &opts)
{
    Checked check{*this, c10d::OpType::REDUCE_SCATTER, "reduce_scatter",
                  "rdmatrain:reduce_scatter"};
    const at::Tensor &output = check.only(outputs);
    TensorCall call = call_for(RDT_REDUCE_SCATTER, output);

    if (inputs.size() != 1) check.refuse("takes one list of input tensors");
    check.each("input", inputs[0], output);
    check.reduction(call, output, opts.reduceOp);
    read_shards(call, all_apart(inputs[0], output, rank_));
    if (are_uneven(inputs[0]))
        count_inputs(call, counts_of(inputs[0]));
    else
        compare_shape(call, output);
    call.call.out = writable(call, output, false);
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

TensorCall Backend::to_reduce_scatter(const Checked &check, const at::Tensor &output,
                                      const at::Tensor &input, const c10d::ReduceOp &op)
{
    check.whole("input", input, output);
    TensorCall call = call_for(RDT_REDUCE_SCATTER, output);

    check.reduction(call, output, op);
    compare_shape(call, output);
    call.call.in = readable(call, apart(input, output, is_shard_of(output, input, rank_, size_)));
    call.call.out = writable(call, output, false);
    return call;
}

WorkPtr Backend::_reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                      const c10d::ReduceScatterOptions &opts)
{
    Checked check{*this, c10d::OpType::_REDUCE_SCATTER_BASE, "reduce_scatter_tensor",
                  "rdmatrain:_reduce_scatter_base"};

    return run(check, to_reduce_scatter(check, output, input, opts.reduceOp), opts.timeout,
               opts.asyncOp);
}

WorkPtr Backend::reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                                 const c10d::ReduceScatterOptions &opts)
{
    Checked check{*this, c10d::OpType::REDUCE_SCATTER_TENSOR_COALESCED, "reduce_scatter_tensor",
                  "rdmatrain:reduce_scatter_tensor_coalesced"};
    std::vector<TensorCall> calls;

    if (outputs.size() != inputs.size())
        check.refuse(std::to_string(outputs.size()) + " outputs for " +
                     std::to_string(inputs.size()) + " inputs");
    for (size_t i = 0; i < inputs.size(); i++)
        calls.push_back(to_reduce_scatter(check, outputs[i], inputs[i], opts.reduceOp));
    return run_all(check, std::move(calls), opts.timeout, opts.asyncOp);
}

} // namespace rdmatrain
