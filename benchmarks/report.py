"""The figures as tables, and as one picture."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#3366aa", "#dd8822", "#888888"
NAMES = {"paper": "paper's body, HRNet-W64, random weights", "default": "default model"}


def engines_table(name: str, section: Mapping[str, Any]) -> Iterator[str]:
    """One line a contender: milliseconds a call and ratio to eager by batch, millimetres, megabytes."""
    contenders = section["contenders"]
    batches = sorted({batch for row in contenders.values() for batch in row.get("ms", ())})
    head = "".join(f"{batch} a call".rjust(18) for batch in batches)
    yield f"{NAMES[name]}: {section['gmac']:.2f} GMAC, answers {section['spread_mm']:.1f} mm apart from crop to crop"
    yield f"  {'':<28}{head}{'off by':>12}{'memory':>10}"
    for contender, row in contenders.items():
        if "problem" in row:
            yield f"  {contender:<28}  {row['problem']}"
            continue
        cells = "".join(_cell(row["ms"][batch], row["ratio"][batch]) for batch in batches)
        off = f"{row['mm']:.4f} mm" if "mm" in row else "-"
        yield f"  {contender:<28}{cells}{off:>12}{row['rss_mb']:>7.0f} MB" + (
            f", {row['gpu_mb']:.0f} MB of GPU" if "gpu_mb" in row else ""
        )


def _cell(ms: float, ratio: float) -> str:
    return f"{ms:.1f} ms  x{ratio:.2f}".rjust(18)


def node_table(runs: Mapping[str, Any]) -> Iterator[str]:
    """One line a run."""
    yield "the node, end to end"
    for name, run in runs.items():
        yield (
            f"  {name:<22}{run['offered_per_s']:>4} images a second offered, {run['people_per_s']:.1f} answered; "
            f"latency {run['latency_ms_p50']:.1f} ms p50, {run['latency_ms_p99']:.1f} ms p99; in the node "
            f"{run['node_ms']:.1f} ms, {100 * run['share_outside_engine']:.0f} % outside of the engine; "
            f"{run['rss_mb']:.0f} MB"
        )


def stages_table(sizes: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """One line a step, one column an image size."""
    yield f"  {'step by step':<30}" + "".join(f"{size:>14}" for size in sizes)
    for step in next(iter(sizes.values())):
        yield f"  {step:<30}" + "".join(f"{steps[step]:>11.3f} ms" for steps in sizes.values())


def growth_table(growth: Mapping[str, Any]) -> Iterator[str]:
    """One line."""
    told = ", ".join(f"{count}: {ms:.1f} ms (x{growth['ratio'][count]:.2f})" for count, ms in growth["ms"].items())
    yield f"a frame by number of people  {told}"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """A panel for each section that the report holds."""
    panels = [name for name in ("paper", "default", "growth", "stages", "soak") if name in report]
    if not panels:
        return
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.6 * columns, 3.8 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, name in zip(axes.flat, panels, strict=False):
        DRAWN[name](axis, report[name], name)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_engines(axis: Axes, section: Mapping[str, Any], name: str) -> None:
    rows = {one: row for one, row in section["contenders"].items() if "ms" in row}
    batches = sorted(next(iter(rows.values()))["ms"])
    height = 0.8 / len(batches)
    for place, batch in enumerate(batches):
        at = [index + place * height for index in range(len(rows))]
        shade = 1 - 0.6 * place / max(1, len(batches) - 1)
        bars = axis.barh(at, [row["ms"][batch] / batch for row in rows.values()], height, color=BLUE, alpha=shade)
        axis.bar_label(bars, [f"{row['ms'][batch] / batch:.3g}" for row in rows.values()], fontsize=7, padding=2)
        bars.set_label(f"{batch} a call")
    axis.set_yticks([index + 0.4 - height / 2 for index in range(len(rows))], list(rows))
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.legend(fontsize=8)
    axis.set_title(f"{NAMES[name]}: ms a crop", fontsize=9)


def _draw_growth(axis: Axes, growth: Mapping[str, Any], name: str) -> None:
    counts = list(growth["ms"])
    axis.plot(counts, [growth["ms"][count] for count in counts], "o-", color=BLUE, label="measured")
    axis.plot(counts, [growth["ms"][counts[0]] * count for count in counts], ":", color=GREY, label="one by one")
    axis.set(xlabel="people in a 640x480 frame", ylabel="ms", ylim=0, title="a frame by number of people")
    axis.legend()


def _draw_stages(axis: Axes, sizes: Mapping[str, Mapping[str, float]], name: str) -> None:
    for color, (size, steps) in zip((BLUE, ORANGE), sizes.items(), strict=False):
        offset = -0.2 if color == BLUE else 0.2
        bars = axis.barh([index + offset for index in range(len(steps))], list(steps.values()), 0.4, color=color)
        axis.bar_label(bars, [f"{ms:.2g}" for ms in steps.values()], fontsize=7, padding=2)
        bars.set_label(size)
    axis.set_yticks(range(len(steps)), list(steps))
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.legend()
    axis.set_title("a frame step by step: ms", fontsize=9)


def _draw_soak(axis: Axes, soak: Mapping[str, Any], name: str) -> None:
    frames, megabytes = zip(*soak["rss_mb_by_frame"], strict=True)
    axis.plot(frames, megabytes, color=BLUE)
    axis.set(xlabel="frames", ylabel="MB", ylim=(0, 1.3 * max(megabytes)), title="the node's resident memory")


COLUMNS = 3
DRAWN = {
    "paper": _draw_engines,
    "default": _draw_engines,
    "growth": _draw_growth,
    "stages": _draw_stages,
    "soak": _draw_soak,
}
