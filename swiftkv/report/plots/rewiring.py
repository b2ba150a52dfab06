"""fig-rewiring: which layers run for which tokens and where every K/V comes from, after the announcement's Figure 2.

Drawn from the configuration: the number of layers of the base model, each variant's cut and its AcrossKV group.
"""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from swiftkv.config import RunConfig, SwiftKVVariant
from swiftkv.layers import Layers
from swiftkv.report.plots.style import GREY, Figure, footer, new, percent, variant_label
from swiftkv.results import Results

EARLY, LATE, CACHE, SHARED = "#CFE6F5", "#FBE3C2", "#56B4E9", "#E69F00"
PROMPT, GENERATED = "#0072B2", "#D55E00"
X_CACHE, X_TRUNK, X_LAYER, X_PROMPT, X_GENERATED = 0.0, 2.4, 3.0, 8.55, 9.4  # left edges, in panel units
W_CACHE, W_LAYER = 1.85, 5.2
ROWS_WITH_TEXT = 16  # above this, every second row is named


@dataclass(frozen=True)
class Wiring:
    """A model to draw: L layers, cut l (= L for the base) and the layers that share one late KV cache."""

    title: str
    layers: int
    cut: int
    group: int = 1

    @property
    def caches(self) -> int:
        """KV caches the model owns: one per early layer, one per late group."""
        return Layers(self.layers, self.cut, self.group).caches


def wirings(config: RunConfig, layers: int) -> list[Wiring]:
    """The base, the variant nearest to half of the layers without AcrossKV, and the widest AcrossKV variant."""
    shown: list[SwiftKVVariant] = []
    plain = [v for v in config.variants if v.key_value_group_size == 1 and v.skip > 0]
    across = [v for v in config.variants if v.key_value_group_size > 1 and v.skip > 0]
    if plain:
        shown.append(min(plain, key=lambda v: abs(v.skip - 0.5)))
    if across:
        shown.append(max(across, key=lambda v: v.key_value_group_size))
    models = [Wiring(variant_label(v), layers, v.num_key_value_layers(layers), v.key_value_group_size) for v in shown]
    return [Wiring("base model", layers, layers), *models]


def arrow(axes: Axes, start: tuple, end: tuple, colour: str = "black", width: float = 0.8, head: float = 5) -> None:
    style = f"-|>,head_length={head / 10},head_width={head / 22}"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle=style, color=colour, linewidth=width, mutation_scale=8, shrinkA=0, shrinkB=0
        )
    )


def box(axes: Axes, x: float, y: float, width: float, height: float, face: str, text: str, size: float) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor="black", linewidth=0.6))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def draw_layers(axes: Axes, model: Wiring, size: float, step: int) -> None:
    """Layer boxes bottom to top, and the K/V each early layer writes for itself."""
    for index in range(model.layers):
        late, named = index >= model.cut, index % step == 0
        label = f"layer {index + 1}: {'Q' if late else 'QKV'}, attn, MLP" if named else ""
        box(axes, X_LAYER, index + 0.1, W_LAYER, 0.8, LATE if late else EARLY, label, size)
        if not late:
            box(axes, X_CACHE, index + 0.1, W_CACHE, 0.8, CACHE, f"KV {index + 1}" if named else "", size)
            arrow(axes, (X_LAYER, index + 0.32), (X_CACHE + W_CACHE, index + 0.32))
            arrow(axes, (X_CACHE + W_CACHE, index + 0.68), (X_LAYER, index + 0.68), colour=GREY)


def draw_late_caches(axes: Axes, model: Wiring, size: float, step: int) -> None:
    """Late KV caches, one per group, all projected from the output of the last early layer."""
    if model.cut == model.layers:
        return
    for number, first in enumerate(range(model.cut, model.layers, model.group)):
        middle = first + model.group / 2
        span = f"{first + 1}" if model.group == 1 else f"{first + 1}-{first + model.group}"
        named = model.group > 1 or number % step == 0
        box(axes, X_CACHE, first + 0.1, W_CACHE, model.group - 0.2, SHARED, f"KV {span}" if named else "", size)
        arrow(axes, (X_TRUNK, middle - 0.18), (X_CACHE + W_CACHE, middle - 0.18))
        for layer in range(first, first + model.group):
            arrow(axes, (X_CACHE + W_CACHE, layer + 0.68), (X_LAYER, layer + 0.68), colour=GREY)
    top = model.layers - model.group / 2 - 0.18
    axes.plot([X_LAYER + W_LAYER / 2, X_LAYER + W_LAYER / 2, X_TRUNK, X_TRUNK],
              [model.cut - 0.1, model.cut, model.cut, top], color="black", linewidth=1.4)  # fmt: skip


def draw_tokens(axes: Axes, model: Wiring, size: float) -> None:
    """How far prompt tokens and generated tokens climb."""
    for x, top, colour, name in (
        (X_PROMPT, model.cut, PROMPT, "prompt tokens"),
        (X_GENERATED, model.layers, GENERATED, "generated tokens"),
    ):
        arrow(axes, (x, 0), (x, top), colour=colour, width=2.6, head=6)
        axes.text(x + 0.26, 0.15, name, rotation=90, color=colour, fontsize=size, va="bottom", ha="left")


def panel(axes: Axes, model: Wiring) -> None:
    """One model with its name above and what it saves below."""
    step = 1 if model.layers <= ROWS_WITH_TEXT else 2
    size = 6 if model.layers <= ROWS_WITH_TEXT else 5
    draw_layers(axes, model, size, step)
    draw_late_caches(axes, model, size, step)
    draw_tokens(axes, model, 6.5)
    skipped = percent((model.layers - model.cut) / model.layers)
    caches = percent(model.caches / model.layers)
    axes.set_title(model.title, fontsize=8.5)
    axes.set_xlabel(
        f"prompt tokens skip {skipped} of the layers\n{model.caches} KV caches ({caches} of the base)", fontsize=7
    )
    axes.set(xlim=(-0.2, 10), ylim=(-0.15, model.layers + 0.15), xticks=[], yticks=[])
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)


def draw(config: RunConfig, results: Results) -> Figure:
    """Base model and two variants side by side; layers are counted from the base model's own config.json."""
    layers = int(results.base_config["num_hidden_layers"])
    models = wirings(config, layers)
    figure, panels = new(1, len(models), 4.4 * max(1, layers / 32))
    for axes, model in zip(panels, models, strict=True):
        panel(axes, model)
    note = (
        "Black arrows: what K and V are computed from; all orange caches come from the output of the last blue layer. "
        "Grey: attention reads.\n"
        "A prompt token whose logits are needed (the last one) climbs all layers, like a generated token."
    )
    source = f"Drawn from {config.path}, {layers} layers of results/{config.scale}/models/base/config.json"
    footer(figure, source, note)
    return figure
