/* SPDX-License-Identifier: Apache-2.0 */
/* The sum of sparse tensors in coordinate format. Ranks differ in how many elements they have, so they
 * first tell each other, while the caller waits; then each gets the elements of all, and adds them in
 * the order of the ranks: the same bits everywhere. */
#include "c10d_backend.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

namespace rdmatrain {

namespace {

/* What one rank has: indices of num_dims x num_elements, and values of num_elements x the rest. */
struct Part {
    int64_t num_dims, num_elements;

    int64_t bytes(const at::Tensor &like) const
    {
        auto sizes = like.sizes().slice(static_cast<size_t>(num_dims));
        int64_t value_bytes =
            c10::multiply_integers(sizes) * static_cast<int64_t>(like.element_size());

        return num_elements * (num_dims * 8 + value_bytes);
    }
};

/* Half types and smaller are added in float32, and rounded once. */
at::ScalarType wide(at::ScalarType type)
{
    return at::isReducedFloatingType(type) ? at::kFloat : type;
}

at::Tensor bytes_of(const at::Tensor &tensor)
{
    return tensor.contiguous().flatten().view(at::kByte);
}

at::Tensor sparse(const at::Tensor &like, const at::Tensor &indices, const at::Tensor &values)
{
    return at::_sparse_coo_tensor_unsafe(indices, values, like.sizes(),
                                         like.options().dtype(values.scalar_type()), true);
}

at::Tensor unpack(const at::Tensor &like, const Part &part, const at::Tensor &bytes)
{
    auto sizes = like.sizes().slice(static_cast<size_t>(part.num_dims)).vec();

    sizes.insert(sizes.begin(), part.num_elements);
    at::Tensor values = at::empty(sizes, like.options().layout(at::kStrided));
    at::Tensor indices = at::empty({part.num_dims, part.num_elements}, at::kLong);
    memcpy(indices.data_ptr(), bytes.const_data_ptr(), indices.nbytes());
    memcpy(values.data_ptr(), static_cast<const char *>(bytes.const_data_ptr()) + indices.nbytes(),
           values.nbytes());
    return sparse(like, indices, values.to(wide(like.scalar_type())));
}

/* Each step adds at most two numbers to an element, so their order inside one does not matter. */
void sum_into(const at::Tensor &tensor, const std::vector<Part> &parts, const Tensors &bytes)
{
    at::Tensor sum = unpack(tensor, parts[0], bytes[0]);

    for (size_t rank = 1; rank < parts.size(); rank++)
        sum = sum.add(unpack(tensor, parts[rank], bytes[rank])).coalesce();
    tensor.copy_(sparse(tensor, sum._indices(), sum._values().to(tensor.scalar_type())));
}

[[noreturn]] void differ(int rank, const std::string &mine, int other, const std::string &theirs)
{
    std::string text = "ranks differ in all_reduce of sparse tensors: rank " +
                       std::to_string(rank) + " has " + mine + ", rank " + std::to_string(other) +
                       " has " + theirs;

    throw_status(RDT_MISMATCH, text.c_str());
}

std::string dims_text(int64_t num)
{
    return std::to_string(num) + " sparse dimensions";
}

} // namespace

/* Of each rank: the number of sparse dimensions, and of elements. What travels has a dtype of its own,
 * so the tensor's is compared by hand; by all ranks with all, so that none is alone with its error. */
std::vector<std::pair<int64_t, int64_t>> Backend::sparse_sizes(const Checked &check,
                                                               const at::Tensor &tensor,
                                                               std::chrono::milliseconds timeout)
{
    at::Tensor mine = at::empty({3}, at::kLong), all = at::empty({size_, 3}, at::kLong);
    std::vector<std::pair<int64_t, int64_t>> sizes;

    mine[0] = tensor.sparse_dim();
    mine[1] = tensor._nnz();
    mine[2] = static_cast<int64_t>(tensor.scalar_type());
    TensorCall call = to_all_gather(check, all, mine);
    compare_shape(call, tensor);
    run(check, std::move(call), timeout, false)->wait();
    for (int rank = 0; rank < size_; rank++) {
        auto dtype = static_cast<at::ScalarType>(all[rank][2].item<int64_t>());

        if (dtype != tensor.scalar_type())
            differ(rank_, c10::toString(tensor.scalar_type()), rank, c10::toString(dtype));
        sizes.emplace_back(all[rank][0].item<int64_t>(), all[rank][1].item<int64_t>());
    }
    return sizes;
}

WorkPtr Backend::allreduce_sparse(Tensors &tensors, const c10d::AllreduceOptions &opts)
{
    Checked check{*this, c10d::OpType::_ALLREDUCE_SPARSE, "all_reduce", "rdmatrain:all_reduce"};
    Checked part = check;
    at::NoGradGuard no_grad;

    if (tensors.size() != 1 || !tensors[0].is_sparse() || !tensors[0].device().is_cpu())
        check.refuse("takes one sparse tensor of the CPU in coordinate format");
    const at::Tensor tensor = tensors[0];
    if (opts.reduceOp.op_ != c10d::ReduceOp::SUM)
        check.refuse("of a sparse tensor the only reduction is SUM");
    at::Tensor mine = tensor.coalesce();
    TensorCall values = call_for(RDT_ALL_REDUCE, mine._values());
    check.reduction(values, mine._values(), opts.reduceOp);
    part.title = nullptr;
    std::vector<Part> parts;
    Tensors bytes;
    for (auto [num_dims, num_elements] : sparse_sizes(part, mine, opts.timeout)) {
        if (num_dims != mine.sparse_dim())
            differ(rank_, dims_text(mine.sparse_dim()), static_cast<int>(parts.size()),
                   dims_text(num_dims));
        parts.push_back({num_dims, num_elements});
        bytes.push_back(at::empty({parts.back().bytes(mine)}, at::kByte));
    }
    at::Tensor packed = at::cat({bytes_of(mine._indices()), bytes_of(mine._values())});
    TensorCall call = to_all_gather(check, bytes, packed);
    call.outputs = {tensor};
    call.finish = [tensor, parts, bytes] { sum_into(tensor, parts, bytes); };
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

} // namespace rdmatrain
