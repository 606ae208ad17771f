/* SPDX-License-Identifier: Apache-2.0 */
/* rdmatrain._c10d: registration only. */
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <pybind11/chrono.h>

#include "c10d_allocator.h"
#include "c10d_backend.h"

namespace py = pybind11;

template <typename T>
using class_of = py::class_<T, c10d::Backend, c10::intrusive_ptr<T>>;

static c10::intrusive_ptr<rdmatrain::Backend>
make_backend(int rank, int size, const py::capsule &comm, std::chrono::milliseconds timeout)
{
    auto *handle = static_cast<rdt_comm_t *>(PyCapsule_GetPointer(comm.ptr(), "rdmatrain.comm"));

    if (handle == nullptr) throw py::error_already_set();
    return c10::make_intrusive<rdmatrain::Backend>(rank, size, handle, timeout);
}

PYBIND11_MODULE(_c10d, module)
{
    module.doc() = "The c10d::Backend over rdmatrain._core; built for one torch minor.";
    module.attr("TORCH_VERSION") = TORCH_VERSION;
    py::module::import("torch.distributed"); /* registers c10d.Backend, which is the base */
    class_of<rdmatrain::Backend>(module, "Backend", "A torch.distributed backend.")
        .def(py::init(&make_backend), py::arg("rank"), py::arg("size"), py::arg("comm"),
             py::arg("timeout"), "comm: the capsule of rdmatrain._core.Comm.detach().")
        .def("transport", &rdmatrain::Backend::transport, py::arg("rank"),
             "Name of the transport that joins this rank to another one.");
    module.def("install_allocator", &rdmatrain::install_allocator,
               "Make the arena torch's allocator for CPU memory, if it is not.");
    module.def("arena_empty", &rdmatrain::arena_empty, py::arg("size"), py::arg("dtype"),
               "A tensor of the arena, whatever its size; its contents are undefined.");
}
