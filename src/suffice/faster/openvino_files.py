"""What OpenVINO makes of a network: as files, and as a module that answers with them.

OpenVINO is asked for nothing but to convert and to compute. As it is imported it would write into the home folder and
tell its makers, unless its package for that is missing; so for that moment it is.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("network.bin", "network.xml")
_TELLS = "openvino_telemetry"


def version() -> str | None:
    """The version of OpenVINO; None where it is not installed."""
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return None


def files_of(module: nn.Module, images: Tensor) -> dict[str, bytes]:
    """A network as the files of `NAMES`; some seconds of work.

    `torch.export` refuses a network whose way depends on what is in an image.

    Args:
        module: float32, in evaluation mode, on a CPU; returns one tensor.
        images: (N, C, H, W), normalised, of at least two images; the files answer any number.

    Raises:
        Exception: of many kinds, where one of the libraries cannot.
    """
    openvino = _imported()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with torch.no_grad(), _quiet():
        any_number = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.export.export(module, (images,), dynamic_shapes=any_number, strict=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchFXPythonDecoder.from_exported_program(program)  # a name keeps it: OpenVINO does not
        model = frontend.convert(frontend.load(decoder))
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / "network.xml", compress_to_fp16=False)
        return {name: Path(folder, name).read_bytes() for name in NAMES}


def read(files: Mapping[str, bytes]) -> nn.Module:
    """The network of such files, which computes in float32 on as many threads as PyTorch.

    Raises:
        Exception: of many kinds, for files that are damaged.
    """
    openvino = _imported()
    core = openvino.Core()
    model = core.read_model(files["network.xml"], files["network.bin"])
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # other programs have a right to these cores, too
    }
    return _Compiled(core.compile_model(model, "CPU", settings).create_infer_request()).eval()


class _Compiled(nn.Module):
    def __init__(self, request: Any) -> None:
        super().__init__()
        self._request = request

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self._request.infer({0: x.contiguous().numpy()}, share_inputs=True)[0])


def _imported() -> Any:
    if "openvino" in sys.modules or _TELLS in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_TELLS] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_TELLS]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither library says what it passes over on the way: whether the answers are the same is what counts."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
