"""Draws the tables.

python plot.py benchmarks.json benchmarks.png

Runs on its own, in the virtual environment that has matplotlib.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLORS = {"ours": "#1f77b4", "native": "#ff7f0e"}
OTHERS = "#8c8c8c"
COLUMNS = 2


def draw(axes: Axes, table: Mapping[str, Any]) -> None:
    # Without the floor: with many messages in flight it would leave the others no room.
    rows = [row for row in table["rows"] if "median" in row and row["server"] != "floor"][::-1]
    names = [row["server"] for row in rows]
    medians = [row["median"] for row in rows]
    below = [row["median"] - row["lowest"] for row in rows]
    above = [row["highest"] - row["median"] for row in rows]
    colors = [COLORS.get(name.split("-")[0], OTHERS) for name in names]
    bars = axes.barh(names, medians, xerr=[below, above], color=colors, ecolor="#333333")
    axes.bar_label(bars, [_label(median) for median in medians], fontsize=7)
    axes.set_title(table["title"], fontsize=9)
    axes.set_xlabel(table["unit"], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.ticklabel_format(axis="x", style="plain")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _label(value: float) -> str:
    return f" {value:,.0f}" if value >= 1000 else f" {value:.1f}"


def main() -> None:
    tables = json.loads(Path(sys.argv[1]).read_text())["tables"]
    lines = -(-len(tables) // COLUMNS)
    figure, grid = plt.subplots(
        lines, COLUMNS, figsize=(12, 3.6 * lines), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(tables) :]:
        axes.remove()
    for axes, table in zip(grid.flat, tables, strict=False):
        draw(axes, table)
    figure.savefig(sys.argv[2], dpi=110)


main()
