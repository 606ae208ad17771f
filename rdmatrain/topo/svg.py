"""The topology as a drawing: boxes for NUMA nodes and switches, and a line for each pair."""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

from rdmatrain.discovery.model import Distance, Gpu, Nic
from rdmatrain.discovery.pod_model import Pair
from rdmatrain.discovery.survey import Survey
from rdmatrain.topo.terminal import printable
from rdmatrain.topo.text import LEGEND, about
from rdmatrain.topo.tree import Branch, Device, grow

_COLOURS = {
    Distance.PIX: "#1a7f37",
    Distance.PXB: "#0e8a8a",
    Distance.PHB: "#0969da",
    Distance.NODE: "#bc6c00",
    Distance.SYS: "#cf222e",
}
_STYLE = """
text { font: 12px sans-serif; fill: #1f2328 }
.small { font-size: 10px; fill: #57606a }
.name { font-weight: bold }
rect { fill: #ffffff; stroke: #8c959f; rx: 5px }
.numa { fill: #f6f8fa }
.gpu { fill: #dafbe1 }
.nic { fill: #ddf4ff }
.other { fill: #eaeef2 }
line { stroke-width: 2.5px }
.more { stroke-dasharray: 5 4 }
"""
# In pixels, but for the last one.
_PAD, _LINE, _CHIP, _LETTER, _LONGEST_NAME = 12, 16, 36, 8, 28
# Shapes, their width and their height; and what makes them, with the top left corner at x and y.
_Drawn = tuple[list[str], int, int]
_Draw = Callable[[int, int], _Drawn]


def topology_svg(survey: Survey) -> str:
    """Draw everything, in ASCII; tooltips have the details and the reasons."""
    drawing = _Drawing(survey)
    title = printable(survey.machine.origin)
    trees = [partial(drawing.box, tree, "numa") for tree in grow(survey.machine)]
    shapes, width, height = _column([partial(_text, title), *trees, drawing.legend], _PAD, _PAD)
    width, height = width + 2 * _PAD, height + 2 * _PAD
    svg = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{width}" height="{height}"/>',
            *shapes,
            *drawing.lines(),
            "</svg>\n",
        ]
    )
    # Standard output may have any encoding, and XML without a declaration is UTF-8.
    return svg.encode("ascii", "xmlcharrefreplace").decode()


class _Drawing:
    def __init__(self, survey: Survey) -> None:
        self._pairs = survey.pairs
        self._others = {nic.name for nic, _ in survey.allocation.others}
        devices: list[Device] = [*survey.machine.gpus, *survey.machine.nics]
        longest = max((min(len(each.name), _LONGEST_NAME) for each in devices), default=0)
        self._chip_width = _LETTER * (max(longest, 12) + 1)
        # Top left corners of the chips.
        self._places: dict[Device, tuple[int, int]] = {}

    def box(self, branch: Branch, style: str, x: int, y: int) -> _Drawn:
        """Draw a NUMA node or a bridge: rows of GPUs, of NICs, and of further boxes."""
        content: list[_Draw] = [partial(_text, printable(branch.label))]
        gpus, nics = (
            _rows(
                [partial(self._chip, each) for each in branch.devices if isinstance(each, kind)], 8
            )
            for kind in (Gpu, Nic)
        )
        below = _rows([partial(self.box, each, "bridge") for each in branch.branches], 4)
        # Room for the lines.
        room = [_room] if gpus and (nics or below) else []
        content += [*gpus, *room, *nics, *below]
        shapes, width, height = _column(content, x + _PAD, y + _PAD)
        width, height = width + 2 * _PAD, height + 2 * _PAD
        frame = f'<rect class="{style}" x="{x}" y="{y}" width="{width}" height="{height}"/>'
        return [frame, *shapes], width, height

    def lines(self) -> list[str]:
        """Draw a line for each GPU and each NIC of its own."""
        return [
            self._line(pair, nic)
            for pair in self._pairs
            for nic in (pair.nic, *pair.more)
            if {pair.gpu, nic} <= self._places.keys()
        ]

    def legend(self, x: int, y: int) -> _Drawn:
        """Explain the colours that are there."""
        levels = sorted({pair.distance for pair in self._pairs})
        return _column([partial(_legend_line, level) for level in levels], x, y)

    def _chip(self, device: Device, x: int, y: int) -> _Drawn:
        self._places[device] = (x, y)
        style = "gpu" if isinstance(device, Gpu) else "nic"
        if isinstance(device, Nic) and (device.unfit or device.name in self._others):
            style = "other"
        name, pci = printable(device.name), printable(device.pci)
        shown = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\u2026"
        shapes = [
            f"<g><title>{escape(f'{name}  {printable(about(device))}')}</title>",
            f'<rect class="{style}" x="{x}" y="{y}" width="{self._chip_width}" height="{_CHIP}"/>',
            f'<text class="name" x="{x + 7}" y="{y + 15}">{escape(shown)}</text>',
            f'<text class="small" x="{x + 7}" y="{y + 29}">{escape(pci)}</text></g>',
        ]
        return shapes, self._chip_width, _CHIP

    def _line(self, pair: Pair, nic: Nic) -> str:
        (from_x, from_y), (to_x, to_y) = self._places[pair.gpu], self._places[nic]
        # From the side of the GPU that looks at the NIC.
        down = from_y <= to_y
        half = self._chip_width // 2
        tip = f"{pair.gpu.name} - {nic.name}  {pair.reason}"
        return (
            f'<line class="{"own" if nic is pair.nic else "more"}" '
            f'stroke="{_COLOURS[pair.distance]}" '
            f'x1="{from_x + half}" y1="{from_y + _CHIP * down}" '
            f'x2="{to_x + half}" y2="{to_y + _CHIP * (not down)}">'
            f"<title>{escape(printable(tip))}</title></line>"
        )


def _legend_line(level: Distance, x: int, y: int) -> _Drawn:
    sample = f'<line stroke="{_COLOURS[level]}" x1="{x}" y1="{y + 9}" x2="{x + 30}" y2="{y + 9}"/>'
    shapes, width, height = _text(f"{level.name}: {LEGEND[level]}", x + 40, y)
    return [sample, *shapes], width + 40, height


def _text(text: str, x: int, y: int) -> _Drawn:
    return [f'<text x="{x}" y="{y + 13}">{escape(text)}</text>'], len(text) * _LETTER, _LINE


def _room(_x: int, _y: int) -> _Drawn:
    return [], 0, _LINE


def _rows(draws: Sequence[_Draw], most: int) -> list[_Draw]:
    starts = range(0, len(draws), most)
    return [partial(_row, draws[start : start + most]) for start in starts]


def _row(draws: Sequence[_Draw], x: int, y: int) -> _Drawn:
    shapes, right, height = [], x, 0
    for draw in draws:
        more, width, tall = draw(right, y)
        shapes += more
        right, height = right + width + _PAD, max(height, tall)
    return shapes, right - x - _PAD, height


def _column(draws: Sequence[_Draw], x: int, y: int) -> _Drawn:
    shapes, width, bottom = [], 0, y
    for draw in draws:
        more, wide, tall = draw(x, bottom)
        shapes += more
        width, bottom = max(width, wide), bottom + tall + _PAD
    return shapes, width, bottom - y - _PAD
