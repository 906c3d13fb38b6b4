"""The block table as a still picture, drawn without a browser: PNG and SVG."""

from __future__ import annotations

import struct
import zlib
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_batch.viz.palette import FREE, STATES

if TYPE_CHECKING:
    from nano_batch.viz.frame import Frame

WIDTH, TALLEST, LARGEST = 860, 440, 56  # CSS pixels, as in static/layout.js
COLOURS = {state.number: state.light for state in STATES}


def grid(num_blocks: int) -> tuple[int, int, int]:
    """Columns (a power of two), rows and the edge of a cell in pixels for `num_blocks` blocks."""
    fits = []
    columns = 1
    while columns <= 1024 and columns < 2 * num_blocks:
        rows, across = -(-num_blocks // columns), WIDTH // columns
        fits.append((columns, rows, max(1, min(LARGEST, across, max(TALLEST // rows, min(3, across))))))
        columns *= 2
    largest = max(cell for _, _, cell in fits)
    return [fit for fit in fits if fit[2] >= 0.8 * largest][-1]


def png(frame: Frame, block_size: int) -> bytes:
    """The cells at 2x as a PNG: colour is state, the fill of a block is the height of its colour."""
    columns, rows, cell = grid(len(frame.state))
    edge = 2 * cell
    palette = np.array([rgb(COLOURS[number]) for number in range(len(COLOURS))], dtype=np.uint8)
    padded = columns * rows
    state = np.full(padded, 255, dtype=np.uint8)
    state[: len(frame.state)] = frame.state
    written = np.zeros(padded, dtype=np.int64)
    written[: len(frame.fill)] = -(-frame.fill.astype(np.int64) * edge // block_size)
    # image[row, y, column, x, rgb]: y runs down, fill rises from the bottom.
    full = written[:, None] >= edge - np.arange(edge)[None, :]
    colour = palette[np.where(state == 255, FREE, state)]
    pale = (0.28 * colour + 0.72 * palette[FREE]).astype(np.uint8)
    line = np.where(full[:, :, None], colour[:, None, :], pale[:, None, :])
    line[state == 255] = 255
    image = np.repeat(line.reshape(rows, columns, edge, 1, 3).swapaxes(1, 2), edge, axis=3)
    if cell >= 6:
        image[:, :2] = 255
        image[:, :, :, :2] = 255
    return encode(np.ascontiguousarray(image.reshape(rows * edge, columns * edge, 3)))


def svg(frame: Frame, block_size: int, caption: str) -> str:
    """Cells, legend with counts and caption as one SVG: 10 px text, no script, no font to load."""
    columns, rows, cell = grid(len(frame.state))
    counts = np.bincount(frame.state, minlength=len(STATES))
    gap = 1 if cell >= 6 else 0
    shapes = []
    for block, (state, fill) in enumerate(zip(frame.state.tolist(), frame.fill.tolist(), strict=True)):
        x, y = block % columns * cell, block // columns * cell
        side = cell - gap
        full = side * fill / block_size
        shapes.append(_rect(x, y, side, side, COLOURS[state], 1 if state == FREE else 0.28))
        if full:
            shapes.append(_rect(x, y + side - full, side, full, COLOURS[state], 1))
    top = rows * cell + 20
    for i, each in enumerate(STATES):
        shapes.append(_rect(170 * i, top - 9, 10, 10, each.light, 1))
        shapes.append(
            f'<text x="{170 * i + 15}" y="{top}">{escape(each.label)} {counts[each.number]:,}</text>'
        )
    for i, text in enumerate(caption.splitlines(), start=1):
        shapes.append(f'<text x="0" y="{top + 6 + 15 * i}">{escape(text)}</text>')
    height = top + 15 * (len(caption.splitlines()) + 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {WIDTH + 16} {height + 8}" '
        f'font-family="sans-serif" font-size="12" fill="#1a1a1a" role="img">\n'
        f'<rect x="-8" y="-8" width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def _rect(x: float, y: float, width: float, height: float, colour: str, opacity: float) -> str:
    size = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {size} fill="{colour}" fill-opacity="{opacity:g}"/>'


def rgb(colour: str) -> tuple[int, int, int]:
    """The three bytes of `#rrggbb`."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def encode(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """An image uint8 [height, width, 3] as PNG (RFC 2083: signature, IHDR, IDAT, IEND)."""
    height, width, _ = image.shape
    lines = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each line starts with filter type 0
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
