/* SPDX-License-Identifier: Apache-2.0 */
#include "c10d_backend.h"

#include <optional>

#include "c10d_allocator.h"

namespace rdmatrain {

namespace {

std::optional<rdt_dtype_t> arithmetic_dtype(at::ScalarType type)
{
    static constexpr std::pair<at::ScalarType, rdt_dtype_t> table[] = {
        {at::kHalf, RDT_F16},   {at::kBFloat16, RDT_BF16}, {at::kFloat, RDT_F32},
        {at::kDouble, RDT_F64}, {at::kChar, RDT_I8},       {at::kByte, RDT_U8},
        {at::kShort, RDT_I16},  {at::kUInt16, RDT_U16},    {at::kInt, RDT_I32},
        {at::kUInt32, RDT_U32}, {at::kLong, RDT_I64},      {at::kUInt64, RDT_U64}};

    for (auto [scalar_type, dtype] : table)
        if (scalar_type == type) return dtype;
    return std::nullopt;
}

/* What is only moved needs no arithmetic: any dtype travels, others as words of their size. */
rdt_dtype_t moved_dtype(const at::Tensor &tensor)
{
    auto dtype = arithmetic_dtype(tensor.scalar_type());

    if (dtype) return *dtype;
    switch (tensor.element_size()) {
    case 1:
        return RDT_U8;
    case 2:
        return RDT_U16;
    case 4:
        return RDT_U32;
    default:
        return RDT_U64;
    }
}

uint64_t count_of(const at::Tensor &tensor, rdt_dtype_t dtype)
{
    return tensor.nbytes() / rdt_dtype_bytes(dtype);
}

/* A tensor to read: itself, or a contiguous copy that the call keeps. */
const void *readable(TensorCall &call, const at::Tensor &tensor)
{
    call.held.push_back(tensor.contiguous());
    return call.held.back().data_ptr();
}

/* A tensor to write, and to read when load is set: itself, or a copy that is copied back. */
void *writable(TensorCall &call, const at::Tensor &tensor, bool load)
{
    call.outputs.push_back(tensor);
    if (tensor.is_contiguous()) {
        call.held.push_back(tensor);
        return tensor.data_ptr();
    }
    at::Tensor copy = load ? tensor.contiguous() : at::empty(tensor.sizes(), tensor.options());
    call.held.push_back(copy);
    call.copy_back.emplace_back(tensor, copy);
    return copy.data_ptr();
}

const char *redop_text(c10d::ReduceOp::RedOpType op)
{
    static const char *const names[] = {"SUM",  "AVG", "PRODUCT", "MIN",        "MAX",
                                        "BAND", "BOR", "BXOR",    "PREMUL_SUM", "UNUSED"};

    return op < sizeof(names) / sizeof(names[0]) ? names[op] : "unknown";
}

} // namespace

Backend::Backend(int rank, int size, rdt_comm_t *comm, std::chrono::milliseconds timeout)
    : c10d::Backend(rank, size), owner_(std::make_shared<CommOwner>(comm)),
      options_(c10::make_intrusive<Options>(timeout))
{
    init();
}

Backend::~Backend()
{
    owner_->close();
}

/* The other ranks may be waiting for this call, so they are told: if they refuse it too, the group
 * goes on; if not, they fail with this reason. */
void Backend::Checked::refuse(const std::string &reason) const
{
    std::string text = std::string(name) + ": " + reason;

    if (collective) {
        TensorCall call;

        call.call.coll = RDT_REFUSED;
        call.call.refusal = text.c_str();
        backend.run(*this, nullptr, std::move(call), c10d::kUnsetTimeout, true);
    }
    TORCH_CHECK(false, "rdmatrain: rank ", backend.getRank(), ": ", text);
}

void Backend::Checked::tensor(const at::Tensor &tensor) const
{
    if (!tensor.device().is_cpu())
        refuse("a tensor is on " + tensor.device().str() + ", and this backend moves CPU tensors");
    if (tensor.layout() != at::kStrided) refuse("a tensor is sparse, which is not supported");
}

const at::Tensor &Backend::Checked::only(const std::vector<at::Tensor> &tensors) const
{
    if (tensors.size() != 1)
        refuse("takes one tensor for each rank, not " + std::to_string(tensors.size()));
    tensor(tensors[0]);
    return tensors[0];
}

rdt_dtype_t Backend::Checked::reducible(const at::Tensor &tensor) const
{
    auto dtype = arithmetic_dtype(tensor.scalar_type());

    if (!dtype)
        refuse("dtype " + std::string(c10::toString(tensor.scalar_type())) +
               " cannot be reduced (supported: float16, bfloat16, float32, float64 and the "
               "integer types)");
    return *dtype;
}

rdt_redop_t Backend::Checked::redop(const c10d::ReduceOp &op) const
{
    switch (op.op_) {
    case c10d::ReduceOp::SUM:
        return RDT_SUM;
    case c10d::ReduceOp::AVG:
        return RDT_AVG;
    case c10d::ReduceOp::MIN:
        return RDT_MIN;
    case c10d::ReduceOp::MAX:
        return RDT_MAX;
    case c10d::ReduceOp::PRODUCT:
        return RDT_PRODUCT;
    default:
        refuse(std::string("reduction ") + redop_text(op.op_) +
               " is not supported (supported: SUM, AVG, MIN, MAX, PRODUCT)");
    }
}

c10::intrusive_ptr<c10d::Work> Backend::run(const Checked &check, const char *title,
                                            TensorCall &&call, std::chrono::milliseconds timeout,
                                            bool async)
{
    if (timeout == c10d::kUnsetTimeout) timeout = options_->timeout;
    call.call.timeout_ns =
        timeout.count() > 0 ? static_cast<uint64_t>(timeout.count()) * 1000000u : RDT_NO_TIMEOUT;
    call.call.background = async;
    if (!call.shards.empty() && call.call.coll == RDT_ALL_GATHER)
        call.call.out_shards = call.shards.data();
    if (!call.shards.empty() && call.call.coll == RDT_REDUCE_SCATTER)
        call.call.in_shards = call.shards.data();
    /* The vectors keep their storage when they are moved, so the pointers stay right. */
    auto work = c10::make_intrusive<Work>(rank_, check.op, title, owner_, std::move(call),
                                          check.collective ? ++seq_ : seq_.load());
    Work::post(work);
    if (coalescing_) coalesced_.push_back(work);
    return work;
}

c10::intrusive_ptr<c10d::Work> Backend::allreduce(std::vector<at::Tensor> &tensors,
                                                  const c10d::AllreduceOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLREDUCE, "all_reduce", true};
    const at::Tensor &tensor = check.only(tensors);
    TensorCall call;

    call.call.coll = RDT_ALL_REDUCE;
    call.call.dtype = check.reducible(tensor);
    call.call.op = check.redop(opts.reduceOp);
    call.call.count = static_cast<uint64_t>(tensor.numel());
    call.call.out = writable(call, tensor, true);
    call.call.in = call.call.out;
    return run(check, "rdmatrain:all_reduce", std::move(call), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work>
Backend::allreduce_coalesced(std::vector<at::Tensor> &tensors,
                             const c10d::AllreduceCoalescedOptions &opts)
{
    std::vector<c10::intrusive_ptr<c10d::Work>> works;

    for (auto &tensor : tensors) {
        std::vector<at::Tensor> one{tensor};

        works.push_back(allreduce(one, opts));
    }
    return c10::make_intrusive<CoalescedWork>(rank_, std::move(works));
}

c10::intrusive_ptr<c10d::Work> Backend::broadcast(std::vector<at::Tensor> &tensors,
                                                  const c10d::BroadcastOptions &opts)
{
    Checked check{*this, c10d::OpType::BROADCAST, "broadcast", true};
    const at::Tensor &tensor = check.only(tensors);
    TensorCall call;

    if (opts.rootRank < 0 || opts.rootRank >= size_)
        check.refuse("root " + std::to_string(opts.rootRank) + " is not a rank of the group");
    call.call.coll = RDT_BROADCAST;
    call.call.dtype = moved_dtype(tensor);
    call.call.peer = static_cast<uint32_t>(opts.rootRank);
    call.call.count = count_of(tensor, call.call.dtype);
    call.call.out = writable(call, tensor, opts.rootRank == rank_);
    return run(check, "rdmatrain:broadcast", std::move(call), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::allgather(std::vector<std::vector<at::Tensor>> &outputs,
                                                  std::vector<at::Tensor> &inputs,
                                                  const c10d::AllgatherOptions &opts)
{
    Checked check{*this, c10d::OpType::ALLGATHER, "all_gather", true};
    const at::Tensor &input = check.only(inputs);
    TensorCall call;

    if (outputs.size() != 1 || outputs[0].size() != static_cast<size_t>(size_))
        check.refuse("needs one output tensor for each rank");
    call.call.coll = RDT_ALL_GATHER;
    call.call.dtype = moved_dtype(input);
    call.call.count = count_of(input, call.call.dtype);
    call.call.in = readable(call, input);
    for (auto &output : outputs[0]) {
        check.tensor(output);
        if (output.numel() != input.numel() || output.scalar_type() != input.scalar_type())
            check.refuse("an output differs from the input in dtype or number of elements (" +
                         std::to_string(output.numel()) + ", " + std::to_string(input.numel()) +
                         ")");
        call.shards.push_back(writable(call, output, false));
    }
    return run(check, "rdmatrain:all_gather", std::move(call), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::_allgather_base(at::Tensor &output, at::Tensor &input,
                                                        const c10d::AllgatherOptions &opts)
{
    Checked check{*this, c10d::OpType::_ALLGATHER_BASE, "all_gather_into_tensor", true};
    TensorCall call;

    check.tensor(input);
    check.tensor(output);
    if (output.numel() != input.numel() * size_ || output.scalar_type() != input.scalar_type())
        check.refuse("the output must have the input's dtype and " + std::to_string(size_) +
                     " times its " + std::to_string(input.numel()) + " elements, not " +
                     std::to_string(output.numel()));
    call.call.coll = RDT_ALL_GATHER;
    call.call.dtype = moved_dtype(input);
    call.call.count = count_of(input, call.call.dtype);
    call.call.in = readable(call, input);
    call.call.out = writable(call, output, false);
    return run(check, "rdmatrain:_all_gather_base", std::move(call), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::reduce_scatter(std::vector<at::Tensor> &outputs,
                                                       std::vector<std::vector<at::Tensor>> &inputs,
                                                       const c10d::ReduceScatterOptions &opts)
{
    Checked check{*this, c10d::OpType::REDUCE_SCATTER, "reduce_scatter", true};
    const at::Tensor &output = check.only(outputs);
    TensorCall call;

    if (inputs.size() != 1 || inputs[0].size() != static_cast<size_t>(size_))
        check.refuse("needs one input tensor for each rank");
    call.call.coll = RDT_REDUCE_SCATTER;
    call.call.dtype = check.reducible(output);
    call.call.op = check.redop(opts.reduceOp);
    call.call.count = static_cast<uint64_t>(output.numel());
    for (auto &input : inputs[0]) {
        check.tensor(input);
        if (input.numel() != output.numel() || input.scalar_type() != output.scalar_type())
            check.refuse("an input differs from the output in dtype or number of elements (" +
                         std::to_string(input.numel()) + ", " + std::to_string(output.numel()) +
                         ")");
        call.shards.push_back(const_cast<void *>(readable(call, input)));
    }
    call.call.out = writable(call, output, false);
    return run(check, "rdmatrain:reduce_scatter", std::move(call), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::_reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                                             const c10d::ReduceScatterOptions &opts)
{
    Checked check{*this, c10d::OpType::_REDUCE_SCATTER_BASE, "reduce_scatter_tensor", true};
    TensorCall call;

    check.tensor(input);
    check.tensor(output);
    if (input.numel() != output.numel() * size_ || input.scalar_type() != output.scalar_type())
        check.refuse("the input must have the output's dtype and " + std::to_string(size_) +
                     " times its " + std::to_string(output.numel()) + " elements, not " +
                     std::to_string(input.numel()));
    call.call.coll = RDT_REDUCE_SCATTER;
    call.call.dtype = check.reducible(output);
    call.call.op = check.redop(opts.reduceOp);
    call.call.count = static_cast<uint64_t>(output.numel());
    call.call.in = readable(call, input);
    call.call.out = writable(call, output, false);
    return run(check, "rdmatrain:_reduce_scatter_base", std::move(call), opts.timeout,
               opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work>
Backend::allgather_into_tensor_coalesced(std::vector<at::Tensor> &outputs,
                                         std::vector<at::Tensor> &inputs,
                                         const c10d::AllgatherOptions &opts)
{
    std::vector<c10::intrusive_ptr<c10d::Work>> works;

    TORCH_CHECK(outputs.size() == inputs.size(), "rdmatrain: ", outputs.size(), " outputs for ",
                inputs.size(), " inputs");
    for (size_t i = 0; i < inputs.size(); i++)
        works.push_back(_allgather_base(outputs[i], inputs[i], opts));
    return c10::make_intrusive<CoalescedWork>(rank_, std::move(works));
}

c10::intrusive_ptr<c10d::Work>
Backend::reduce_scatter_tensor_coalesced(std::vector<at::Tensor> &outputs,
                                         std::vector<at::Tensor> &inputs,
                                         const c10d::ReduceScatterOptions &opts)
{
    std::vector<c10::intrusive_ptr<c10d::Work>> works;

    TORCH_CHECK(outputs.size() == inputs.size(), "rdmatrain: ", outputs.size(), " outputs for ",
                inputs.size(), " inputs");
    for (size_t i = 0; i < inputs.size(); i++)
        works.push_back(_reduce_scatter_base(outputs[i], inputs[i], opts));
    return c10::make_intrusive<CoalescedWork>(rank_, std::move(works));
}

c10::intrusive_ptr<c10d::Work> Backend::barrier(const c10d::BarrierOptions &opts)
{
    Checked check{*this, c10d::OpType::BARRIER, "barrier", true};
    TensorCall call;

    call.call.coll = RDT_BARRIER;
    return run(check, "rdmatrain:barrier", std::move(call), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::send(std::vector<at::Tensor> &tensors, int dst, int tag)
{
    Checked check{*this, c10d::OpType::SEND, "send", false};
    const at::Tensor &tensor = check.only(tensors);
    TensorCall call;

    call.call.coll = RDT_SEND;
    call.call.dtype = moved_dtype(tensor);
    call.call.count = count_of(tensor, call.call.dtype);
    call.call.peer = static_cast<uint32_t>(dst);
    call.call.tag = tag;
    call.call.in = readable(call, tensor);
    return run(check, "rdmatrain:send", std::move(call), c10d::kUnsetTimeout, true);
}

c10::intrusive_ptr<c10d::Work> Backend::recv(std::vector<at::Tensor> &tensors, int src, int tag)
{
    Checked check{*this, c10d::OpType::RECV, "recv", false};
    const at::Tensor &tensor = check.only(tensors);
    TensorCall call;

    call.call.coll = RDT_RECV;
    call.call.dtype = moved_dtype(tensor);
    call.call.count = count_of(tensor, call.call.dtype);
    call.call.peer = static_cast<uint32_t>(src);
    call.call.tag = tag;
    call.call.out = writable(call, tensor, false);
    return run(check, "rdmatrain:recv", std::move(call), c10d::kUnsetTimeout, true);
}

std::string Backend::transport(int rank) const
{
    CommOwner::User user(*owner_);
    rdt_comm_t *comm = user.comm();

    if (comm == nullptr) throw_status(RDT_CLOSED, "the process group was destroyed");
    return rdt_comm_transport(comm, static_cast<uint32_t>(rank));
}

void Backend::startCoalescing()
{
    coalescing_ = true;
}

c10::intrusive_ptr<c10d::Work> Backend::endCoalescing()
{
    coalescing_ = false;
    return c10::make_intrusive<CoalescedWork>(rank_, std::exchange(coalesced_, {}));
}

/* The CPU has no index. */
bool Backend::supportsTensorAlloc(c10::DeviceIndex device)
{
    return device < 0 && rdt_arena_is_open();
}

at::Tensor Backend::allocateTensor(long size, at::TensorOptions options)
{
    TORCH_CHECK(options.device().is_cpu(), "rdmatrain: allocateTensor: no arena is on ",
                options.device());
    return arena_empty({size}, c10::typeMetaToScalarType(options.dtype()));
}

void Backend::abort()
{
    CommOwner::User user(*owner_);
    rdt_comm_t *comm = user.comm();

    if (comm != nullptr) rdt_comm_abort(comm, "the process group was aborted");
}

void Backend::shutdown()
{
    owner_->close();
}

} // namespace rdmatrain
