/* SPDX-License-Identifier: Apache-2.0 */
/* Groups that are made from a group. Their ranks agree through a store, as those of any group do. */
#include "c10d_groups.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <numeric>

#include "c10d_backend.h"

namespace rdmatrain {

static pybind11::object *factory; /* never destroyed: Python may end first */

void set_factory(pybind11::object callable)
{
    delete factory;
    factory = new pybind11::object(std::move(callable));
}

static BackendPtr make_backend(const StorePtr &store, int rank, size_t size,
                               const c10::intrusive_ptr<GroupOptions> &options)
{
    pybind11::gil_scoped_acquire gil;

    return (*factory)(store, rank, size, options).cast<BackendPtr>();
}

/* A copy, for c10d goes on using its own. */
c10::intrusive_ptr<GroupOptions> Backend::derived_options(const OptionsPtr &opts,
                                                          std::vector<uint64_t> global_ranks) const
{
    auto base = opts == nullptr ? c10::make_intrusive<GroupOptions>(options_)
                                : c10::dynamic_intrusive_pointer_cast<GroupOptions>(opts);

    TORCH_CHECK_TYPE(base != nullptr,
                     "rdmatrain: the options of a group must be rdmatrain.Options");
    auto derived = c10::make_intrusive<GroupOptions>(*base);
    if (opts == nullptr || derived->timeout == c10d::kUnsetTimeout) derived->timeout = timeout_;
    derived->global_ranks_in_group = std::move(global_ranks);
    return derived;
}

std::vector<uint64_t> Backend::global_ranks(const std::vector<int> &ranks) const
{
    std::vector<uint64_t> global;

    for (int rank : ranks)
        global.push_back(options_.global_ranks_in_group.at(static_cast<size_t>(rank)));
    return global;
}

/* Of rank in ranks, or -1. */
static int place_of(int rank, const std::vector<int> &ranks)
{
    auto found = std::find(ranks.begin(), ranks.end(), rank);

    return found == ranks.end() ? -1 : static_cast<int>(found - ranks.begin());
}

BackendPtr Backend::split(const StorePtr &store, const std::vector<int> &ranks,
                          const OptionsPtr &opts)
{
    int place = place_of(rank_, ranks);

    if (place < 0) return nullptr;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        BackendPtr last = split_.lock();

        if (last != nullptr && split_store_.lock() == store) return last;
    }
    BackendPtr made =
        make_backend(store, place, ranks.size(), derived_options(opts, global_ranks(ranks)));
    std::lock_guard<std::mutex> lock(mutex_);
    split_store_ = store;
    split_ = made;
    return made;
}

/* Which global ranks the others have is not known here. */
BackendPtr Backend::merge(const StorePtr &store, const OptionsPtr &opts, const int &rank,
                          const int &size)
{
    std::vector<uint64_t> ranks(static_cast<size_t>(size));

    std::iota(ranks.begin(), ranks.end(), 0);
    return make_backend(store, rank, static_cast<size_t>(size),
                        derived_options(opts, std::move(ranks)));
}

BackendPtr Backend::shrink(const std::vector<int64_t> &ranks_to_exclude, int flags,
                           const OptionsPtr &opts)
{
    constexpr int kAbort = 1; /* torch's SHRINK_ABORT: what is pending need not end well */
    std::vector<int> ranks;
    std::string name = "shrink";

    for (int rank = 0; rank < size_; rank++) {
        if (std::count(ranks_to_exclude.begin(), ranks_to_exclude.end(), rank) > 0) continue;
        ranks.push_back(rank);
        name.append("/").append(std::to_string(rank));
    }
    int place = place_of(rank_, ranks);
    TORCH_CHECK(place >= 0, "rdmatrain: shrink: rank ", rank_, " is one of those to exclude");
    if (flags & kAbort) abort();
    auto store = c10::make_intrusive<c10d::PrefixStore>(name, store_);
    return make_backend(store, place, ranks.size(), derived_options(opts, global_ranks(ranks)));
}

} // namespace rdmatrain
