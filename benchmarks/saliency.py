"""What maps cost beside the forward pass alone, and beside what one would otherwise pick, measured in one run.

    python benchmarks/saliency.py [--rounds 9] [--threads 1] [--clock wall] [--json benchmarks.json]

Random images and random weights of two students: the demonstration's (64 pixels, patch 8, width 64, 4 blocks, 2 heads)
and ViT-Tiny/16 at 224 pixels. Everything takes turns in every round and runs once before; `seconds_ratio` is the median
over rounds of the round's time divided by that of the forward pass alone in the same round (`model(images)` in
inference mode, logits moved to NumPy), with the lowest and highest quarter beside it. `forward, class token alone` is
`students.class_token_logits`, a forward pass that skips what the class token cannot see in the last block.

The usual ways, which must give the same maps or the script stops:

- attention not fused in any block and a hook that keeps every weight of every block, without gradients: last layer, or
  rollout as a product of whole matrices
- the same with gradients and `backward()`, whole matrices: Chefer's rule
- captum's LayerGradCam on the last block's tokens turned into a grid, parameters as they are, one target a label

`spread` says how steady the machine was: the highest over the lowest quarter of the forward pass's times. A ratio is
stated (`stable`) where its own quarters lie within 10 % of each other. `--clock cpu` counts processor seconds, which a
busy machine disturbs less; `images_per_s` is then per second of one processor core in use.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from captum.attr import LayerGradCam

# isort: split
from pkd_utils.distillation.students import build_student, class_token_logits
from pkd_utils.localization.saliency import METHODS, saliency_maps
from pkd_utils.runs import files  # before timm: see pkd_utils.runs.torchvision_cpu

# isort: split
from localization import machine

STUDENTS = {
    "demo student, 64 px": ({"width": 64, "depth": 4, "heads": 2}, 256),
    "ViT-Tiny/16, 224 px": ({"name": "vit_tiny_patch16_224", "image_size": 224, "patch_size": 16, "channels": 3}, 8),
}
ATTENTION_ONLY = {
    "attention, mean": {"method": "attention"},
    "attention, max": {"method": "attention", "heads": "max"},
}


def forward_alone(model, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model(images).numpy()


def unfused(model, images: torch.Tensor, targets: torch.Tensor | None = None) -> tuple[list, list]:
    """Weights of every block out of hooks, and their gradients where there are targets."""
    seen: list[torch.Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
    handles = [block.attn.attn_drop.register_forward_hook(lambda m, i, o: seen.append(o)) for block in model.blocks]
    with torch.set_grad_enabled(targets is not None):
        logits = model(images)
        if targets is not None:
            for weights in seen:
                weights.retain_grad()
            (logits * targets).sum().backward()
    for handle in handles:
        handle.remove()
    for block in model.blocks:
        block.attn.fused_attn = True
    gradients = [weights.grad for weights in seen]
    model.zero_grad()
    return [weights.detach() for weights in seen], gradients


def usual_attention(model, images: torch.Tensor) -> np.ndarray:
    return unfused(model, images)[0][-1][:, :, 0, 1:].mean(1).numpy()


def usual_rollout(model, images: torch.Tensor) -> np.ndarray:
    product = torch.eye(model.pos_embed.shape[1])
    for weights in unfused(model, images)[0]:
        product = (0.5 * weights.mean(1) + 0.5 * torch.eye(weights.shape[-1])) @ product
    return product[:, 0, 1:].numpy()


def usual_chefer(model, images: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    relevance = torch.eye(model.pos_embed.shape[1])
    for weights, gradient in zip(*unfused(model, images, targets), strict=True):
        relevance = relevance + (gradient * weights).clamp(min=0).mean(1) @ relevance
    return relevance[:, 0, 1:].numpy()


class Grid(torch.nn.Module):
    """Normalisation whose output captum can read as (B, D, rows, columns), and the way back."""

    def __init__(self, norm: torch.nn.Module, side: int):
        super().__init__()
        self.norm, self.side, self.layer = norm, side, torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(x)
        grid = self.layer(tokens[:, 1:].transpose(1, 2).unflatten(-1, (self.side, self.side)))
        return torch.cat([tokens[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def usual_grad_cam(model, images: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    block = model.blocks[-1]
    norm = block.norm1
    block.norm1 = Grid(norm, model.patch_embed.grid_size[0])
    cam = LayerGradCam(model, block.norm1.layer).attribute(images, target=targets.argmax(1), relu_attributions=True)
    block.norm1 = norm
    return cam[:, 0].detach().numpy()


def measure(contestants: dict[str, Callable], rounds: int, clock: Callable) -> dict[str, np.ndarray]:
    """Seconds of every contestant in every round."""
    for function in contestants.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, function in contestants.items():
            start = clock()
            function()
            seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def student_rows(student: str, options: dict, n: int, rounds: int, clock: Callable) -> list[dict]:
    torch.manual_seed(0)
    model = build_student(**options).eval()
    images = torch.randn(n, options.get("channels", 1), *model.patch_embed.img_size)
    targets = torch.eye(5)[torch.arange(n) % 5]
    ways = {
        "attention, mean": ("not fused, hooks", lambda: usual_attention(model, images)),
        "rollout": ("not fused, hooks, whole matrices", lambda: usual_rollout(model, images)),
        "chefer": ("not fused, hooks, whole matrices", lambda: usual_chefer(model, images, targets)),
        "grad_cam": ("captum LayerGradCam", lambda: usual_grad_cam(model, images, targets)),
    }
    for name, (_, function) in ways.items():
        method = name.split(",")[0]
        ours = saliency_maps(model, images, {method: {}}, targets=targets)[0][method]
        theirs = function().reshape(ours.shape)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max())

    ours = {
        **{name: {name: spec} for name, spec in ATTENTION_ONLY.items()},
        "rollout": {"rollout": {}},
        "all attention-only maps": {**ATTENTION_ONLY, "rollout": {}},
        "grad_cam": {"grad_cam": {}},
        "chefer": {"chefer": {}},
        "chefer and grad_cam": {"chefer": {}, "grad_cam": {}},
        "all methods": {method: {} for method in METHODS},
    }
    contestants: dict[str, Callable] = {"forward": lambda: forward_alone(model, images)}
    contestants["forward, class token alone"] = lambda: forward_class_token(model, images)
    for name, methods in ours.items():
        contestants[name] = lambda m=methods: saliency_maps(model, images, m, targets=targets, batch_size=n)
    for name, (_, function) in ways.items():
        contestants[f"usual way: {name}"] = function

    seconds = measure(contestants, rounds, clock)
    forward = seconds["forward"]
    low, high = np.quantile(forward, [0.25, 0.75])
    rows = []
    for name, values in seconds.items():
        ratios = values / forward
        quarters = np.quantile(ratios, [0.25, 0.75])
        usual = seconds.get(f"usual way: {name}")
        rows.append(
            {
                "student": student,
                "what": name,
                "images_per_s": n / float(np.median(values)),
                "seconds_ratio": float(np.median(ratios)),
                "ratio_low": float(quarters[0]),
                "ratio_high": float(quarters[1]),
                "stable": bool(quarters[1] / quarters[0] < 1.1),
                "usual_way": ways[name][0] if usual is not None else None,
                "faster_than_usual": float(np.median(usual / values)) if usual is not None else None,
                "spread": float(high / low),
            }
        )
    return rows


def forward_class_token(model, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return class_token_logits(model, images).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    parser.add_argument("--json", help="write the table and the machine's description to this file")
    args = parser.parse_args()
    info = machine()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    rows = []
    for student, (options, n) in STUDENTS.items():
        rows += student_rows(student, options, n, args.rounds, clock)

    print(f"{info['cpu']}, {info['cores']} cores, torch {info['torch']}, {args.threads} threads, {args.clock} clock")
    print(f"{'what':<34}{'images/s':>10}{'x forward':>11}{'quarters':>14}{'x faster than usual':>21}")
    for i, r in enumerate(rows):
        if i == 0 or rows[i - 1]["student"] != r["student"]:
            print(f"{r['student']}; forward pass's quarters {r['spread']:.2f} apart")
        faster = "" if r["faster_than_usual"] is None else f"{r['faster_than_usual']:.2f}"
        quarters = f"{r['ratio_low']:.2f}..{r['ratio_high']:.2f}{'' if r['stable'] else ' ?'}"
        print(f"{r['what']:<34}{r['images_per_s']:>10.0f}{r['seconds_ratio']:>11.2f}{quarters:>14}{faster:>21}")
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        files.write_json(args.json, {"name": "saliency", "machine": info, "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
