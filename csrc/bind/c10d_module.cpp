/* SPDX-License-Identifier: Apache-2.0 */
/* rdmatrain._c10d: registration only. */
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <pybind11/chrono.h>

#include "c10d_allocator.h"
#include "c10d_backend.h"
#include "c10d_groups.h"

namespace py = pybind11;
using rdmatrain::GroupOptions;

template <typename T, typename Base>
using class_of = py::class_<T, Base, c10::intrusive_ptr<T>>;

static c10::intrusive_ptr<rdmatrain::Backend>
make_backend(const rdmatrain::StorePtr &store, int rank, int size, const py::capsule &comm,
             const GroupOptions &options, std::string note)
{
    auto *handle = static_cast<rdt_comm_t *>(PyCapsule_GetPointer(comm.ptr(), "rdmatrain.comm"));

    if (handle == nullptr) throw py::error_already_set();
    return c10::make_intrusive<rdmatrain::Backend>(store, rank, size, handle, options,
                                                   std::move(note));
}

static c10::intrusive_ptr<GroupOptions>
make_options(std::optional<std::chrono::milliseconds> timeout, const std::string &transport,
             const std::string &require)
{
    return c10::make_intrusive<GroupOptions>(timeout.value_or(c10d::kUnsetTimeout), transport,
                                             require);
}

static c10::intrusive_ptr<GroupOptions> copy_options(const GroupOptions &options,
                                                     const py::object &)
{
    return c10::make_intrusive<GroupOptions>(options);
}

static py::dict stats_of(const rdmatrain::Backend &backend, int rank)
{
    rdt_peer_stats_t stats = backend.stats(rank);
    py::list rails;

    for (uint32_t i = 0; i < stats.num_rails; i++) {
        const rdt_rail_t &rail = stats.rails[i];
        auto bytes = [](const uint8_t *gid) {
            return py::bytes(reinterpret_cast<const char *>(gid), RDT_GID_BYTES);
        };

        rails.append(py::dict(py::arg("gid_index") = rail.gid_index, py::arg("mtu") = rail.mtu,
                              py::arg("gid") = bytes(rail.gid),
                              py::arg("peer_gid") = bytes(rail.peer_gid)));
    }
    return py::dict(py::arg("sent_bytes") = stats.sent_bytes,
                    py::arg("received_bytes") = stats.received_bytes,
                    py::arg("staged_bytes") = stats.staged_bytes, py::arg("rails") = rails);
}

PYBIND11_MODULE(_c10d, module)
{
    module.doc() = "The c10d::Backend over rdmatrain._core; built for one torch minor.";
    module.attr("TORCH_VERSION") = TORCH_VERSION;
    py::module::import("torch.distributed"); /* registers c10d.Backend, which is the base */
    class_of<GroupOptions, c10d::Backend::Options>(module, "Options", "What a group is asked for.")
        .def(py::init(&make_options), py::arg("timeout") = py::none(), py::kw_only(),
             py::arg("transport") = "", py::arg("require") = "",
             "timeout: None for the group's. transport, require: empty for what the setting says.")
        .def_readwrite("transport", &GroupOptions::transport)
        .def_readwrite("require", &GroupOptions::require)
        .def_readwrite("group_desc", &GroupOptions::group_desc)
        .def("__deepcopy__", &copy_options, py::arg("memo"));
    class_of<rdmatrain::Backend, c10d::Backend>(module, "Backend", "A torch.distributed backend.")
        .def(py::init(&make_backend), py::arg("store"), py::arg("rank"), py::arg("size"),
             py::arg("comm"), py::arg("options"), py::arg("note") = "",
             "comm: the capsule of rdmatrain._core.Comm.detach(). note: what to keep with it.")
        .def_property_readonly("options", &rdmatrain::Backend::getBackendOptions,
                               "A copy of what the group was made with, with its timeout.")
        .def("get_error", &rdmatrain::Backend::getError, "How the group is: torch's ErrorType.")
        .def("transport", &rdmatrain::Backend::transport, py::arg("rank"),
             "Name of the transport that joins this rank to another one.")
        .def("stats", &stats_of, py::arg("rank"),
             "As _core.Comm.stats() tells it of one rank, without its transport.")
        .def_property_readonly("note", &rdmatrain::Backend::note, "What was kept with it.");
    module.def("set_factory", &rdmatrain::set_factory, py::arg("factory"),
               "Set what makes a backend of a store, a rank, a number of ranks and options.");
    module.def("close_all", &rdmatrain::close_all, py::call_guard<py::gil_scoped_release>(),
               "Close the communicators of all groups.");
    module.def("install_allocator", &rdmatrain::install_allocator,
               "Make the arena torch's allocator for CPU memory, if it is not.");
    module.def("arena_empty", &rdmatrain::arena_empty, py::arg("size"), py::arg("dtype"),
               "A tensor of the arena, whatever its size; its contents are undefined.");
}
