/* SPDX-License-Identifier: Apache-2.0 */
/* The collectives that move, and point-to-point. */
#include "c10d_backend.h"

namespace rdmatrain {

WorkPtr Backend::broadcast(Tensors &tensors, const c10d::BroadcastOptions &opts)
{
    Checked check{*this, c10d::OpType::BROADCAST, "broadcast", "rdmatrain:broadcast"};
    const at::Tensor &tensor = check.only(tensors);
    TensorCall call = call_for(RDT_BROADCAST, tensor);

    call.call.peer = check.root(opts.rootRank);
    compare_shape(call, tensor);
    call.call.out = writable(call, tensor, opts.rootRank == rank_);
    call.num_inputs = 1;
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

TensorCall Backend::to_all_gather(const Checked &check, const Tensors &outputs,
                                  const at::Tensor &input)
{
    check.tensor(input);
    check.each("output", outputs, input);
    TensorCall call = call_for(RDT_ALL_GATHER, input);

    call.call.in = readable(call, apart_from_all(input, outputs, rank_));
    write_shards(call, outputs);
    if (are_uneven(outputs))
        count_outputs(call, counts_of(outputs));
    else
        compare_shape(call, input);
    return call;
}

WorkPtr Backend::allgather(TensorLists &outputs, Tensors &inputs,
                           const c10d::AllgatherOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLGATHER, "all_gather", "rdmatrain:all_gather"};
    const at::Tensor &input = check.only(inputs);

    if (outputs.size() != 1) check.refuse("takes one list of output tensors");
    return run(check, to_all_gather(check, outputs[0], input), opts.timeout, opts.asyncOp);
}

/* outputs has a list for each rank, with a tensor for each input. */
WorkPtr Backend::allgather_coalesced(TensorLists &outputs, Tensors &inputs,
                                     const c10d::AllgatherOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLGATHER_COALESCED, "all_gather_coalesced",
                  "rdmatrain:all_gather"};
    std::vector<TensorCall> calls;

    if (outputs.size() != static_cast<size_t>(size_))
        check.refuse("needs one list of outputs for each rank");
    for (auto &list : outputs)
        if (list.size() != inputs.size())
            check.refuse(std::to_string(list.size()) + " outputs for " +
                         std::to_string(inputs.size()) + " inputs");
    for (size_t i = 0; i < inputs.size(); i++) {
        Tensors of_input;

        for (auto &list : outputs)
            of_input.push_back(list[i]);
        calls.push_back(to_all_gather(check, of_input, inputs[i]));
    }
    return run_all(check, std::move(calls), opts.timeout, opts.asyncOp);
}

TensorCall Backend::to_all_gather(const Checked &check, const at::Tensor &output,
                                  const at::Tensor &input)
{
    check.whole("output", output, input);
    TensorCall call = call_for(RDT_ALL_GATHER, input);

    compare_shape(call, input);
    call.call.in = readable(call, apart(input, output, is_shard_of(input, output, rank_, size_)));
    call.call.out = writable(call, output, false);
    return call;
}

WorkPtr Backend::_allgather_base(at::Tensor &output, at::Tensor &input,
                                 const c10d::AllgatherOptions &opts)
{
    Checked check{*this, c10d::OpType::_ALLGATHER_BASE, "all_gather_into_tensor",
                  "rdmatrain:_all_gather_base"};

    return run(check, to_all_gather(check, output, input), opts.timeout, opts.asyncOp);
}

WorkPtr Backend::allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                                 const c10d::AllgatherOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLGATHER_COALESCED, "all_gather_into_tensor",
                  "rdmatrain:all_gather_into_tensor_coalesced"};
    std::vector<TensorCall> calls;

    if (outputs.size() != inputs.size())
        check.refuse(std::to_string(outputs.size()) + " outputs for " +
                     std::to_string(inputs.size()) + " inputs");
    for (size_t i = 0; i < inputs.size(); i++)
        calls.push_back(to_all_gather(check, outputs[i], inputs[i]));
    return run_all(check, std::move(calls), opts.timeout, opts.asyncOp);
}

WorkPtr Backend::gather(TensorLists &outputs, Tensors &inputs, const c10d::GatherOptions &opts)
{
    Checked check{*this, c10d::OpType::GATHER, "gather", "rdmatrain:gather"};
    const at::Tensor &input = check.only(inputs);
    TensorCall call = call_for(RDT_GATHER, input);

    call.call.peer = check.root(opts.rootRank);
    compare_shape(call, input);
    if (opts.rootRank != rank_) {
        if (!outputs.empty()) check.refuse("takes output tensors on the root alone");
        call.call.in = readable(call, input);
        return run(check, std::move(call), opts.timeout, opts.asyncOp);
    }
    if (outputs.size() != 1) check.refuse("takes one list of output tensors on the root");
    check.each("output", outputs[0], input);
    call.call.in = readable(call, apart_from_all(input, outputs[0], rank_));
    write_shards(call, outputs[0]);
    if (are_uneven(outputs[0])) count_outputs(call, counts_of(outputs[0]));
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

WorkPtr Backend::scatter(Tensors &outputs, TensorLists &inputs, const c10d::ScatterOptions &opts)
{
    Checked check{*this, c10d::OpType::SCATTER, "scatter", "rdmatrain:scatter"};
    const at::Tensor &output = check.only(outputs);
    TensorCall call = call_for(RDT_SCATTER, output);

    call.call.peer = check.root(opts.rootRank);
    compare_shape(call, output);
    if (opts.rootRank == rank_) {
        if (inputs.size() != 1) check.refuse("takes one list of input tensors on the root");
        check.each("input", inputs[0], output);
        read_shards(call, all_apart(inputs[0], output, rank_));
        if (are_uneven(inputs[0])) count_inputs(call, counts_of(inputs[0]));
    } else if (!inputs.empty()) {
        check.refuse("takes input tensors on the root alone");
    }
    call.call.out = writable(call, output, false);
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

WorkPtr Backend::alltoall(Tensors &outputs, Tensors &inputs, const c10d::AllToAllOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLTOALL, "all_to_all", "rdmatrain:all_to_all"};

    if (inputs.empty()) check.refuse("needs one input tensor for each rank, not 0");
    check.each("input", inputs, inputs[static_cast<size_t>(rank_) % inputs.size()]);
    check.each("output", outputs, inputs[static_cast<size_t>(rank_)]);
    TensorCall call = call_for(RDT_ALL_TO_ALL, inputs[0]);
    Tensors kept = inputs;
    for (auto &output : outputs)
        kept = all_apart(kept, output, -1);
    read_shards(call, kept);
    write_shards(call, outputs);
    count_inputs(call, counts_of(inputs));
    count_outputs(call, counts_of(outputs));
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

WorkPtr Backend::alltoall_base(at::Tensor &output, at::Tensor &input, Splits &output_splits,
                               Splits &input_splits, const c10d::AllToAllOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLTOALL_BASE, "all_to_all_single", "rdmatrain:all_to_all"};

    check.tensor(input);
    check.dtype("output", output, input);
    auto in_counts = check.split("input", input, input_splits);
    auto out_counts = check.split("output", output, output_splits);
    auto own = static_cast<size_t>(rank_);
    if (in_counts[own] != out_counts[own])
        check.refuse("sends " + std::to_string(in_counts[own]) + " elements to itself, and takes " +
                     std::to_string(out_counts[own]));
    TensorCall call = call_for(RDT_ALL_TO_ALL, input);
    call.call.count = in_counts[own];
    call.call.in = readable(call, apart(input, output, false));
    call.call.out = writable(call, output, false);
    if (!input_splits.empty() || !output_splits.empty()) {
        count_inputs(call, std::move(in_counts));
        count_outputs(call, std::move(out_counts));
    }
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

WorkPtr Backend::send(Tensors &tensors, int dst, int tag)
{
    Checked check{*this, c10d::OpType::SEND, "send", "rdmatrain:send", false};
    const at::Tensor &tensor = check.only(tensors);
    TensorCall call = call_for(RDT_SEND, tensor);

    call.call.peer = static_cast<uint32_t>(dst);
    call.call.tag = tag;
    call.call.in = readable(call, tensor);
    return run(check, std::move(call), c10d::kUnsetTimeout, true);
}

static TensorCall to_recv(const at::Tensor &tensor, uint32_t src, int tag)
{
    TensorCall call = call_for(RDT_RECV, tensor);

    call.call.peer = src;
    call.call.tag = tag;
    call.call.out = writable(call, tensor, false);
    call.num_inputs = 1;
    return call;
}

WorkPtr Backend::recv(Tensors &tensors, int src, int tag)
{
    Checked check{*this, c10d::OpType::RECV, "recv", "rdmatrain:recv", false};

    /* A negative rank, RDT_ANY_PEER among them, would be taken for something else. */
    if (src < 0) check.refuse("rank " + std::to_string(src) + " is not a rank of the group");
    return run(check, to_recv(check.only(tensors), static_cast<uint32_t>(src), tag),
               c10d::kUnsetTimeout, true);
}

WorkPtr Backend::recvAnysource(Tensors &tensors, int tag)
{
    Checked check{*this, c10d::OpType::RECVANYSOURCE, "recv", "rdmatrain:recvAnySource", false};

    return run(check, to_recv(check.only(tensors), RDT_ANY_PEER, tag), c10d::kUnsetTimeout, true);
}

} // namespace rdmatrain
