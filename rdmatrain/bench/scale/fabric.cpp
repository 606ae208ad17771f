// SPDX-License-Identifier: Apache-2.0
// Plays jobs on a fat tree, by SimGrid's flow model: links are shared max-min fairly, and a message
// takes the latency of its route, then its bytes at the rate that it gets. Reads numbers:
//
//   levels  down...  up...  bytes/s and seconds of each link  jobs
//   of each job: ranks, stages, the node of each rank; then of each rank, of each stage:
//     seconds before it sends, seconds of its own work while messages fly, messages that it
//     gets, messages that it sends, and of each of these: to whom, bytes
//
// and prints the seconds of each job. A rank is an actor; it ends a stage when its work is done and
// what it sends and gets has arrived, as a rank of the library does.
#include <simgrid/s4u.hpp>
#include <simgrid/version.h>

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace s4u = simgrid::s4u;
using Point = simgrid::kernel::routing::NetPoint;

namespace {

struct Message {
    unsigned to;
    double bytes;
};

struct Stage {
    double before, busy;
    unsigned arrivals;
    std::vector<Message> messages;
};

struct Job {
    std::vector<unsigned> nodes;
    std::vector<std::vector<Stage>> ranks;
};

std::vector<s4u::Host *> nics;
char payload;

template <typename T> T number()
{
    T value;

    if (!(std::cin >> value)) {
        std::fprintf(stderr, "the input ends too early\n");
        std::exit(2);
    }
    return value;
}

std::vector<unsigned> numbers(unsigned count)
{
    std::vector<unsigned> all(count);

    for (auto &one : all) one = number<unsigned>();
    return all;
}

std::pair<Point *, Point *> add_nic(s4u::NetZone *zone, const std::vector<unsigned long> &,
                                    unsigned long id)
{
    nics.push_back(zone->create_host("nic" + std::to_string(id), 1e9)->seal());
    return {nics.back()->get_netpoint(), nullptr};
}

void build_tree()
{
    const auto levels = number<unsigned>();
    const auto down = numbers(levels), up = numbers(levels);
    const auto bandwidth = number<double>(), latency = number<double>();
    const s4u::FatTreeParams tree(levels, down, up, std::vector<unsigned>(levels, 1));
    auto *zone = s4u::create_fatTree_zone("fabric", nullptr, tree, s4u::ClusterCallbacks(add_nic),
                                          bandwidth, latency,
                                          s4u::Link::SharingPolicy::SPLITDUPLEX);

    zone->seal();
}

Job read_job()
{
    const auto world = number<unsigned>(), stages = number<unsigned>();
    Job job{numbers(world), std::vector<std::vector<Stage>>(world)};

    for (auto &rank : job.ranks) {
        rank.resize(stages);
        for (auto &stage : rank) {
            stage.before = number<double>();
            stage.busy = number<double>();
            stage.arrivals = number<unsigned>();
            stage.messages.resize(number<unsigned>());
            for (auto &message : stage.messages) {
                message.to = number<unsigned>();
                message.bytes = number<double>();
            }
        }
    }
    return job;
}

// Of one rank in one stage: what comes early from ranks that are ahead waits there.
s4u::Mailbox *mailbox(unsigned rank, size_t stage)
{
    return s4u::Mailbox::by_name(std::to_string(rank) + "/" + std::to_string(stage));
}

void run_rank(unsigned me, const std::vector<Stage> *stages)
{
    char *got = nullptr;

    for (size_t s = 0; s < stages->size(); s++) {
        const Stage &stage = (*stages)[s];
        std::vector<s4u::CommPtr> flying;

        s4u::this_actor::sleep_for(stage.before);
        for (unsigned i = 0; i < stage.arrivals; i++)
            flying.push_back(mailbox(me, s)->get_async<char>(&got));
        for (const auto &message : stage.messages)
            flying.push_back(mailbox(message.to, s)->put_async(
                &payload, message.bytes < 1 ? 1 : static_cast<uint64_t>(message.bytes)));
        s4u::this_actor::sleep_for(stage.busy);
        for (auto &comm : flying) comm->wait();
    }
}

void run_jobs(unsigned jobs)
{
    for (unsigned j = 0; j < jobs; j++) {
        const Job job = read_job();
        const double began = s4u::Engine::get_clock();
        std::vector<s4u::ActorPtr> actors;

        for (unsigned r = 0; r < job.ranks.size(); r++)
            actors.push_back(s4u::Actor::create("rank", nics[job.nodes[r]], run_rank, r,
                                                &job.ranks[r]));
        for (auto &actor : actors) actor->join();
        std::printf("%.12g\n", s4u::Engine::get_clock() - began);
        std::fflush(stdout);
    }
}

} // namespace

int main(int argc, char **argv)
{
    s4u::Engine engine(&argc, argv);

    build_tree();
    s4u::Actor::create("jobs", nics[0], run_jobs, number<unsigned>());
    engine.run();
    return 0;
}
