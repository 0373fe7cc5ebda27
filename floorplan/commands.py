"""`trifold floorplan ...`: what the console command runs. tyro makes flags and help from the signatures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..common.command_line import (
    Device,
    check_folder,
    check_output,
    check_sources,
    chosen_preset,
    make_folder,
    run_commands,
    show_progress,
    torch_device,
    warn_of_others,
)
from ..common.weights import write_json
from . import checking, finishing
from .diagram import BubbleDiagram, example_names
from .errors import FloorplanError
from .finished import FinishedPlan
from .finishing_settings import FinishSettings
from .model import SamplerName
from .output import PLAN_SUFFIXES
from .plan import Plan

SUFFIXES = (*PLAN_SUFFIXES, ".html", ".gif", ".mp4", "")
SEVERAL = {"evaluate": ("--steps", "--samplers", "--seeds"), "train": ("--exclude-rooms",)}  # may be repeated
NUMBERED = r"plan-\d+\.(svg|json)"
NUM_KNOWN = 1000  # training plans that the nearest is sought among


def generate(
    graph: Annotated[str, tyro.conf.arg(aliases=["-g"])],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("plan.svg"),
    *,
    num_plans: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1,
    model: str = "procedural",
    steps: int = 20,
    sampler: SamplerName = "sde-dpmsolver++",
    seed: int = 0,
    discrete: bool = True,
    best_of: int = 1,
    finish: bool = False,
    device: Device = "auto",
) -> None:
    """Draw floorplans for a bubble diagram.

    Args:
        graph: json file of a bubble diagram, or the name of a packaged example such as two_bedrooms.
        out: plan.svg, .png, .json, .dxf, .ifc or .geojson; .html for a page; .gif or .mp4 for the denoising; a folder
            for pictures, json and a page.
        num_plans: how many plans; their seeds are seed, seed + 1, ...
        model: packaged name, folder written by training or conversion, or hub id.
        steps: denoising steps, 1 to 1000.
        sampler: all need about 20 steps, ddim and dpmsolver++ add no noise on the way and draw less exactly;
            ddpm-large has the published variance and wants 1000.
        seed: seed of the first plan.
        discrete: decode corners from bits at low noise, where the model has a trained branch for it (the shipped one's
            is off).
        best_of: draw each plan this many times and keep the best, those with the right doors first.
        finish: put walls and doors right; what was moved, and what could not be put right, is told.
        device: where to run; auto takes the GPU if there is one.
    """
    check_output(out, SUFFIXES)
    check_sources(out, NUMBERED, [Path(graph)])
    check_best_of(best_of)
    animated = out.suffix.lower() in (".gif", ".mp4")
    if animated and num_plans != 1:
        raise FloorplanError(f"an animation shows one plan, found {num_plans}", source=str(out), field="num_plans")
    if animated and (finish or best_of != 1):
        text = "an animation shows one plan being drawn; it is neither finished nor chosen"
        raise FloorplanError(text, source=str(out), field="finish" if finish else "best_of")
    diagram = read_diagram(graph)
    house = load_model(model, device)
    title = diagram.name or Path(graph).stem
    if animated:
        from .animate import save_animation

        frames = house.frames(diagram, steps=steps, sampler=sampler, seed=seed, discrete=discrete)
        make_folder(out.parent)
        save_animation(frames, out)
        print(out)
        return
    drawing: dict[str, Any] = {"steps": steps, "sampler": sampler, "seed": seed, "discrete": discrete}
    if best_of == 1 and not finish:
        plans: Sequence[Plan | FinishedPlan] = house.generate(diagram, num_plans, progress=show_progress, **drawing)
    else:
        put_right = finishing.finish if finish else None
        checked = checking.best_of(
            house, diagram, num_plans, best_of, finish=put_right, progress=show_progress, **drawing
        )
        plans = [one.finished or one.plan for one in checked]
        if best_of > 1:
            print(checking.cost(checked), file=sys.stderr)
    paths = save_plans(plans, diagram, out, title)
    for i, plan in enumerate(plans):
        if isinstance(plan, FinishedPlan):
            print(f"plan {i}: {plan.summary()}", file=sys.stderr)
    for path in paths:
        print(path)


def finish(
    plans: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PLANS")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    settings: Annotated[FinishSettings, tyro.conf.arg(name="")] = FinishSettings(),  # noqa: B008
) -> None:
    """Put the walls and doors of plans right that are already there, and write drawings.

    Args:
        plans: json file or folder of plans (RPLAN / House-GAN++ schema, ProcTHOR).
        out: .svg, .png, .json, .dxf, .ifc or .geojson; of several plans numbered files.
        settings: what finishing may do; lengths in metres.
    """
    from .other_formats import load_plans

    check_output(out, PLAN_SUFFIXES)
    finished = [finishing.finish(plan, settings) for plan in load_plans(plans)]
    for path, plan in zip(save_numbered(finished, out), finished, strict=True):
        print(f"{path.name}: {plan.summary()}", file=sys.stderr)
        print(path)


def render(
    plans: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PLANS")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    original_style: bool = False,
    labels: bool = True,
    palette: str = "soft",
) -> None:
    """Draw plans that are already there.

    Args:
        plans: json file or folder of plans (RPLAN / House-GAN++ schema, ProcTHOR).
        out: .svg, .png (one plan, or a contact sheet of several) or .html.
        original_style: the evaluation style of HouseDiffusion (256 px, type colours), for one plan.
        labels: write room names and areas.
        palette: soft or house_diffusion.
    """
    from .other_formats import load_plans
    from .page import save_page
    from .render import plan_to_original_svg, plan_to_svg
    from .sheet import contact_sheet, save_picture

    check_output(out, (".svg", ".png") if original_style else (".svg", ".png", ".html"))
    loaded = load_plans(plans)
    make_folder(out.parent)
    if out.suffix.lower() == ".html":
        save_page(out, [(p.name or f"plan {i}", "", [p], p.diagram()) for i, p in enumerate(loaded)], palette=palette)
    elif original_style:
        if len(loaded) != 1:
            raise FloorplanError(f"holds {len(loaded)} plans; the original style draws one", source=str(plans))
        save_picture(plan_to_original_svg(loaded[0]), out)
    elif len(loaded) == 1:
        save_picture(plan_to_svg(loaded[0], labels=labels, palette=palette), out, width=1024)
    else:
        save_picture(contact_sheet(loaded, labels=labels, palette=palette), out)
    print(out)


def evaluate(
    model: str = "procedural",
    *,
    data: str = "procedural",
    split: str | None = None,
    num_plans: int = 200,
    steps: tuple[int, ...] = (20,),
    samplers: tuple[SamplerName, ...] = ("sde-dpmsolver++",),
    seeds: tuple[int, ...] = (0,),
    sizes: bool = False,
    best_of: int = 1,
    finish: bool = False,
    training_data: str | None = None,
    inception: bool = False,
    out: Path | None = None,
    device: Device = "auto",
) -> None:
    """Measure a model on diagrams it was not trained on, ground truth's own scores beside.

    Args:
        model: packaged name, folder, or hub id.
        data: `procedural` (plans held out by seed), or a json file or folder of plans.
        split: of that file, plans that carry this split only (ProcTHOR: val).
        num_plans: how many diagrams.
        steps: denoising steps, one row of the table per entry; pairs with `samplers` (or all with one sampler).
        samplers: sampler of each entry of `steps`, or one for all.
        seeds: sampling seeds; scores are pooled over them.
        sizes: also tell the model every room's area and size.
        best_of: also draw each plan this many times, measure the best, and how much plans of one diagram differ.
        finish: also measure finished plans.
        training_data: `procedural`, or a file or folder: measure how near plans are to the first 1000 of these. Those
            of `procedural` are other plans of the same generator: training draws from 10^9 and has hardly seen them.
        inception: also measure the FID of Inception features (downloads its weights; `pip install 'trifold[fid]'`).
        out: json file for the scores; it grows with every entry of `steps`.
        device: where to run.
    """
    from .evaluation import Report, evaluate_model, held_out_plans, second_sample
    from .other_formats import load_plans
    from .procedural import ProceduralPlans

    if out is not None:
        check_output(out, (".json",))
        make_folder(out.parent)
    check_best_of(best_of)
    house = load_model(model, device)
    samplers = samplers * len(steps) if len(samplers) == 1 else samplers
    if len(samplers) != len(steps):
        raise FloorplanError(f"{len(samplers)} samplers for {len(steps)} entries of steps", field="samplers")
    plans = held_out_plans(data, num_plans, split=split)
    if training_data == "procedural":
        known = [ProceduralPlans()[i] for i in range(NUM_KNOWN)]
    else:
        known = load_plans(training_data)[:NUM_KNOWN] if training_data else []

    def keep(found: Report) -> None:
        if out is not None:
            write_json(out, {"model": model, "data": data, "split": split, **found.to_dict()})

    report = evaluate_model(
        house,
        plans,
        list(zip(samplers, steps, strict=True)),
        seeds=seeds,
        sizes=sizes,
        best_of=best_of,
        finished=finish,
        others=second_sample(data, num_plans, split=split),
        training_plans=known,
        inception=inception,
        progress=show_progress,
        on_run=keep,
    )
    print(report.table())


def convert(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    half: bool = False,
) -> None:
    """Turn an original HouseDiffusion checkpoint (model250000.pt, ema_0.9999_250000.pt) into a model folder.

    Args:
        checkpoint: a .pt state dict or .safetensors file with the original's names.
        out: folder to write config.json and model.safetensors to.
        half: store half precision.
    """
    from .checkpoint import load_original

    check_folder(out)
    house = load_original(checkpoint)
    house.save_pretrained(out, half=half)
    count = sum(p.numel() for p in house.parameters())
    print(f"{out}: width {house.config.width}, {house.config.num_layers} layers, {count:,} parameters")


def train(argv: Sequence[str]) -> None:
    """`trifold floorplan train PRESET [flags]`: presets are complete configurations, which flags change."""
    from .training import PRESETS, run_training

    config = chosen_preset("floorplan", PRESETS, argv)
    result = run_training(config)
    print(f"{'stopped' if result.interrupted else 'trained'} at step {result.step}; see {config.output_dir}")


COMMANDS = {"generate": generate, "finish": finish, "evaluate": evaluate, "render": render, "convert": convert}


def run(argv: Sequence[str]) -> None:
    """Entry of `trifold floorplan`."""
    about = "Floorplans from bubble diagrams: draw, finish, measure and train."
    run_commands("floorplan", about, {**COMMANDS, "train": train}, argv, SEVERAL)


def check_best_of(best_of: int) -> None:
    """Raises FloorplanError for a number that is no number of tries."""
    if best_of < 1:
        raise FloorplanError(f"expected at least 1, found {best_of}", field="best_of")


def read_diagram(graph: str) -> BubbleDiagram:
    """A diagram from a file or a packaged example's name."""
    if graph in example_names():
        return BubbleDiagram.example(graph)
    if not Path(graph).exists():
        raise FloorplanError(
            f"no such file, and no example of that name (examples: {', '.join(example_names())})", source=graph
        )
    return BubbleDiagram.load(graph)


def load_model(model: str, device: Device) -> Any:
    """A `HouseDiffusion` on the chosen device."""
    from .model import HouseDiffusion

    return HouseDiffusion.from_pretrained(model, device=torch_device(device))


def save_plans(plans: Sequence[Plan | FinishedPlan], diagram: BubbleDiagram, out: Path, title: str) -> list[Path]:
    """One file, numbered files, a page, or a folder with pictures, json and a page; returns what was written."""
    from .page import save_page
    from .sheet import contact_sheet, save_picture

    make_folder(out if out.suffix == "" else out.parent)
    outlines = [finishing.clear_plan(plan) if isinstance(plan, FinishedPlan) else plan for plan in plans]
    if out.suffix.lower() == ".html":
        save_page(out, [(title, f"{len(plans)} plans", outlines, diagram)], title=title)
        return [out]
    if out.suffix == "":
        paths = [path for i, plan in enumerate(plans) for path in save_all(plan, out / f"plan-{i}")]
        warn_of_others(out, NUMBERED, paths)
        save_picture(contact_sheet(outlines, titles=[f"{title} {i}" for i in range(len(plans))]), out / "sheet.png")
        save_page(out / "index.html", [(title, f"{len(plans)} plans", outlines, diagram)], title=title)
        return [*paths, out / "sheet.png", out / "index.html"]
    return save_numbered(plans, out)


def save_all(plan: Plan | FinishedPlan, stem: Path) -> list[Path]:
    """A picture and json; returns their paths."""
    paths = [stem.with_suffix(suffix) for suffix in (".svg", ".json")]
    for path in paths:
        plan.save(path)
    return paths


def save_numbered(plans: Sequence[Plan | FinishedPlan], out: Path) -> list[Path]:
    """`out` itself for one plan, else `name-0.suffix`, ...; returns the paths."""
    make_folder(out.parent)
    single = len(plans) == 1
    paths = [out if single else out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(len(plans))]
    for plan, path in zip(plans, paths, strict=True):
        plan.save(path)
    return paths
