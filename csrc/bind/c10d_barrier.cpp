/* SPDX-License-Identifier: Apache-2.0 */
/* Barriers. The monitored one goes over the store: it must tell who is missing, and leave the group as
 * it was. Keys, in the store of the group:
 *
 *   monitored/RANK          rank RANK waits in a monitored barrier, its Nth
 *   monitored/RANK/N        what rank 0 says to that: "", or what is wrong
 *
 * Each is deleted by who reads it. Rank 0 answers those who wait now, so a rank that missed one barrier
 * is in step again at the next. */
#include "c10d_backend.h"

#include <algorithm>
#include <stdexcept>
#include <thread>

namespace rdmatrain {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/* Other threads use the store's connection too: so nobody blocks in it, but asks, ever more rarely. */
class Pause
{
  public:
    void sleep()
    {
        std::this_thread::sleep_for(pause_);
        pause_ = std::min(2 * pause_, milliseconds(50));
    }

  private:
    milliseconds pause_{1};
};

std::string arrival_key(int rank)
{
    return "monitored/" + std::to_string(rank);
}

std::string join(const std::vector<int> &ranks)
{
    std::string text;

    for (int rank : ranks)
        text += (text.empty() ? "" : ", ") + std::to_string(rank);
    return text;
}

} // namespace

WorkPtr Backend::barrier(const c10d::BarrierOptions &opts)
{
    Checked check{*this, c10d::OpType::BARRIER, "barrier", "rdmatrain:barrier"};
    TensorCall call;

    call.call.coll = RDT_BARRIER;
    return run(check, std::move(call), opts.timeout, opts.asyncOp);
}

/* A group that has failed answers nobody: without this, those who left it would be named as missing. */
void Backend::throw_if_failed()
{
    char text[512];
    CommOwner::User user(*owner_);

    if (user.comm() == nullptr) throw std::runtime_error("the process group was destroyed");
    if (rdt_comm_status(user.comm(), text, sizeof(text)) != RDT_OK) throw std::runtime_error(text);
}

/* What rank 0 says. It may come as late as to any operation of the group, and waits for the others as
 * long as the barrier may take: so it names who is missing before anybody else gives up. */
std::string Backend::wait_for_verdict(const std::string &key, milliseconds barrier_timeout)
{
    milliseconds patience = timeout_, timeout = patience + barrier_timeout;
    auto end = Clock::now() + timeout;

    for (Pause pause; patience.count() <= 0 || Clock::now() < end; pause.sleep()) {
        if (store_->check({key})) return store_->get_to_str(key);
        throw_if_failed(); /* not while the store is asked, which may take long */
    }
    throw std::runtime_error("rank 0 did not answer within " + std::to_string(timeout.count()) +
                             " ms");
}

void Backend::report_arrival(milliseconds timeout)
{
    std::string arrival = arrival_key(rank_), number = std::to_string(++num_monitored_);
    std::string key = arrival + "/" + number, verdict;

    try {
        store_->set(arrival, number);
        verdict = wait_for_verdict(key, timeout);
        store_->deleteKey(key);
    } catch (const std::exception &error) {
        verdict = error.what();
        try {
            store_->deleteKey(arrival); /* rank 0 must not count on this rank */
        } catch (const std::exception &) {
            /* The store is gone, and the arrival with it. */
        }
    }
    TORCH_CHECK(verdict.empty(), "rdmatrain: Rank ", rank_,
                " successfully reached monitoredBarrier, but received errors while waiting for "
                "send/recv from rank 0: ",
                verdict);
}

/* Waits until all have come, or for so long: the ranks that have not. */
std::vector<int> Backend::await_arrivals(milliseconds timeout)
{
    auto end = Clock::now() + timeout;
    std::vector<std::string> keys;
    std::vector<int> missing;

    for (int rank = 1; rank < size_; rank++)
        keys.push_back(arrival_key(rank));
    for (Pause pause; Clock::now() < end; pause.sleep()) {
        throw_if_failed();
        if (keys.empty() || store_->check(keys)) return missing;
    }
    for (int rank = 1; rank < size_; rank++)
        if (!store_->check({arrival_key(rank)})) missing.push_back(rank);
    return missing;
}

void Backend::answer_arrivals(const std::vector<int> &missing, const std::string &verdict)
{
    for (int rank = 1; rank < size_; rank++) {
        if (std::find(missing.begin(), missing.end(), rank) != missing.end()) continue;
        if (!store_->check({arrival_key(rank)})) continue; /* it gave up meanwhile */
        std::string number = store_->get_to_str(arrival_key(rank));
        store_->deleteKey(arrival_key(rank)); /* first: it may come again at once */
        store_->set(arrival_key(rank) + "/" + number, verdict);
    }
}

void Backend::monitoredBarrier(const c10d::BarrierOptions &opts, bool wait_all_ranks)
{
    milliseconds timeout = opts.timeout == c10d::kUnsetTimeout ? timeout_.load() : opts.timeout;

    if (rank_ != 0) return report_arrival(timeout);
    TORCH_CHECK(timeout.count() > 0, "rdmatrain: Rank 0 timed out in monitoredBarrier after ",
                timeout.count(), " ms");
    std::vector<int> missing;
    std::string verdict;
    try {
        missing = await_arrivals(timeout);
    } catch (const std::exception &error) {
        TORCH_CHECK(false, "rdmatrain: [Rank 0]: monitoredBarrier: ", error.what());
    }
    if (!missing.empty())
        verdict =
            (wait_all_ranks ? "Ranks " + join(missing) : "Rank " + std::to_string(missing[0])) +
            " failed to pass monitoredBarrier in " + std::to_string(timeout.count()) + " ms";
    answer_arrivals(missing, verdict);
    TORCH_CHECK(verdict.empty(), "rdmatrain: [Rank 0]: ", verdict);
}

} // namespace rdmatrain
