"""What of a drawn figure lies over something else."""

import itertools

from matplotlib.figure import Figure
from matplotlib.text import Text


def touching(figure: Figure) -> list[str]:
    """Pairs of texts that share a pixel, and legends of the figure over the lines of an axes."""
    figure.canvas.draw()
    beyond = {tick.label1 for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for tick in axis.get_major_ticks()
              if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())}  # fmt: skip
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in beyond]
    boxes = [(t.get_text(), t.get_window_extent()) for t in shown]
    found = [f"{a!r} {b!r}" for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.overlaps(two)]
    legends = [*figure.legends, *(legend for ax in figure.axes if (legend := ax.get_legend()))]
    for legend, ax in itertools.product(legends, figure.axes):
        if legend.get_window_extent().overlaps(ax.get_window_extent()):
            found.append(f"a legend over {ax.get_ylabel()!r}")
    return found
