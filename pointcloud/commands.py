"""`trifold pointcloud ...`: what the console command runs. tyro makes flags and help from the signatures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

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
)
from ..common.weights import write_json
from .cloud import PointCloud
from .diffusion import PointDiffusion
from .errors import PointCloudError
from .evaluation import Measuring, Report, check_data, check_evaluation, evaluate_model, load_clouds, row_names
from .generator import Drawing, Precision, classes_of, draw, open_generator
from .luo_hu.checkpoint import Kind, load_original
from .luo_hu.model import lower_precision
from .metrics.parallel import Progress
from .output import MESH_SUFFIXES, NUMBERED, SHAPE_SUFFIXES, check_libraries, check_meshes, save_shapes
from .process import DEFAULT_SAMPLER, DEFAULT_STEPS, SamplerName, Sampling
from .surface import Method, cloud_to_mesh

Flat = tyro.conf.arg(name="")
Several = tyro.conf.arg(metavar="CLOUD [CLOUD ...]", help_behavior_hint="(required)")
SEVERAL = {  # flags that may be repeated
    "evaluate": ("--classes", "--steps", "--samplers", "--seeds", "--metrics"),
    "train": ("--classes",),
}


def generate(
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("shapes"),
    *,
    model: str = "procedural",
    num_clouds: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8,
    class_name: str | None = None,
    drawing: Annotated[Drawing, Flat] = Drawing(),  # noqa: B008  # frozen
    mesh: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Draw new shapes.

    Args:
        out: a cloud (.ply .obj .xyz .npy .npz .glb; numbered if there are several), .png contact sheet, .html page to
            turn them by hand, .mp4 or .gif turntable; or a folder for clouds, sheet and page.
        model: packaged name, folder written by training or conversion, or hub id.
        num_clouds: how many; their seeds are seed, seed + 1, ...
        class_name: such as chair; none draws classes as often as they were seen in training.
        drawing: how clouds are drawn.
        mesh: also make a mesh of each (.glb in a folder), shown beside its cloud.
        seed: seed of the first.
        device: where to run; auto takes the GPU if there is one.
    """
    check_output(out, SHAPE_SUFFIXES)
    if mesh:
        check_meshes(out)
        check_libraries(out)
    generator = open_generator(model, torch_device(device))
    clouds = draw(generator, num_clouds, drawing, class_name=class_name, seed=seed, progress=show_progress)
    meshes = [cloud_to_mesh(cloud) for cloud in clouds] if mesh else []
    labels = [f"{cloud.name or 'cloud'} {seed + i}" for i, cloud in enumerate(clouds)]
    facts = {"model": model, "sampler": drawing.title(generator), "seeds": f"{seed} to {seed + num_clouds - 1}"}
    for path in save_shapes(clouds, out, title="Shapes", meshes=meshes, labels=labels, facts=facts):
        print(path)


def interpolate(
    cloud_a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CLOUD_A")],
    cloud_b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CLOUD_B")],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("interpolation.png"),
    *,
    model: str = "procedural",
    num_clouds: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8,
    num_points: int = 2048,
    class_name: str | None = None,
    steps: int = DEFAULT_STEPS,
    sampler: SamplerName = DEFAULT_SAMPLER,
    precision: Precision = "float32",
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Draw the shapes between two, from one to the other through the shape latent.

    Args:
        cloud_a: file of a cloud or mesh, in the pose and units of the training data.
        cloud_b: the other.
        out: as for generate.
        model: of a point transformer: packaged name, folder, or hub id.
        num_clouds: how many, the two ends included.
        num_points: of each cloud.
        class_name: told besides the latent.
        steps: denoising steps.
        sampler: see generate.
        precision: of the inner products of the nets.
        seed: of the noise that all are drawn from.
        device: where to run; auto takes the GPU if there is one.
    """
    check_output(out, SHAPE_SUFFIXES)
    check_sources(out, NUMBERED, (cloud_a, cloud_b))
    a, b = (PointCloud.load(path, num_points=_sampled(path, num_points)) for path in (cloud_a, cloud_b))
    diffusion = PointDiffusion.from_pretrained(model, device=torch_device(device))
    sampling = Sampling(steps, sampler, progress=show_progress)
    with lower_precision(precision, diffusion.device):
        clouds = diffusion.interpolate(
            a, b, num_clouds, num_points=num_points, class_name=class_name, seed=seed, sampling=sampling
        )
    labels = [f"{i / max(1, num_clouds - 1):.2f}" for i in range(num_clouds)]
    facts = {"model": model, "from": str(cloud_a), "to": str(cloud_b), "steps": str(steps)}
    columns = min(num_clouds, 8)
    for path in save_shapes(clouds, out, title="Interpolation", labels=labels, facts=facts, columns=columns):
        print(path)


def evaluate(
    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL")] = ("procedural",),
    *,
    classes: tuple[str, ...] = (),
    steps: tuple[int, ...] = (),
    samplers: tuple[SamplerName, ...] = (),
    guidance_scale: float = 1.0,
    precision: Precision = "float32",
    seeds: tuple[int, ...] = (0,),
    measuring: Annotated[Measuring, Flat] = Measuring(),  # noqa: B008
    out: Path | None = None,
    device: Device = "auto",
) -> None:
    """Measure models on shapes they were not trained on, a second sample of ground truth beside.

    Args:
        models: packaged names, folders or hub ids, each a part of the table; or folders of cloud files (a folder that
            is called like a packaged name is written ./name).
        classes: of the data; by default those the first model knows.
        steps: denoising steps, one row per entry; pairs with `samplers` (or all with one sampler).
        samplers: sampler of each entry of `steps`, or one for all; by default the model's own.
        guidance_scale: classifier-free guidance; 1 is none.
        precision: of the inner products of the nets.
        seeds: sampling seeds; the table gives mean and standard deviation over them.
        measuring: what is compared, and how.
        out: json file for all scores; it grows with every class. Until the end exact EMD is kept in a folder beside it
            (scores.emd), from which the same command goes on after an interruption.
        device: where to run.
    """
    if out is not None:
        check_output(out, (".json",))
        make_folder(out.parent)
    rows = paired(steps, samplers)
    drawings = [Drawing(measuring.num_points, n, s, guidance_scale, precision) for n, s in rows]
    names = row_names(models)
    place = torch_device(device)
    opened = [_clouds_of(given, measuring.num_points) or open_generator(given, place) for given in models]
    if opened and not isinstance(opened[0], list):
        classes = classes or classes_of(opened[0])
    if not classes:
        raise PointCloudError(
            f"classes: {', '.join(models[:1])} knows none; say which of the data's it is compared with"
        )
    for model in opened:  # all of them first: hours of scores are not lost to the last
        check_evaluation(model, classes, drawings, measuring, seeds)
    check_data(measuring, classes)
    report = Report(measuring)
    emd_folder = None if out is None or not {"emd", "emd_squared"} & set(measuring.metrics) else out.with_suffix(".emd")
    for number, (model, name) in enumerate(zip(opened, names, strict=True)):
        evaluate_model(
            model,
            classes,
            drawings,
            measuring,
            seeds=seeds,
            name=name,
            ground_truth=number == 0,
            progress=show_progress,
            on_pairs=_Comparing(),
            emd_folder=emd_folder,
            report=report,
            on_class=None if out is None else lambda found: write_json(out, found.to_dict()),
        )
    if emd_folder is not None:
        for pattern in ("*_emd.npz", "*_emd_squared.npz"):
            for path in emd_folder.glob(pattern):
                path.unlink()
        if not any(emd_folder.iterdir()):
            emd_folder.rmdir()
    print(report.table())


def mesh(
    clouds: Annotated[tyro.conf.Positional[tuple[Path, ...]], Several],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("mesh.glb"),
    *,
    method: Method = "auto",
    resolution: int | None = None,
    smoothing: float | None = None,
) -> None:
    """Turn clouds into meshes.

    Args:
        clouds: cloud files: .ply .obj .xyz .pts .txt .pcd .npy .npz .glb .gltf .off.
        out: .glb .obj .ply .stl (numbered if there are several clouds), or a folder, which also gets a page.
        method: auto takes gauss, whose meshes are always closed; alpha, poisson and ball_pivoting are there too.
        resolution: grid cells along the longest side (gauss, poisson); by default as the points' spacing asks for.
        smoothing: for gauss, 0 to 3; by default as the noise of the points asks for.
    """
    check_output(out, (*MESH_SUFFIXES, ""))
    check_sources(out, NUMBERED, clouds)
    if not clouds:
        raise PointCloudError("clouds: expected at least one file, found none")
    check_libraries(out, method)
    loaded = [PointCloud.load(path) for path in clouds]
    made = [cloud_to_mesh(c, method, resolution=resolution, smoothing=smoothing) for c in loaded]
    if out.suffix == "":
        paths = save_shapes(loaded, out, title="Meshes", meshes=made, labels=[path.stem for path in clouds])
    else:
        make_folder(out.parent)
        paths = [out] if len(made) == 1 else [out.with_stem(f"{out.stem}-{i}") for i in range(len(made))]
        for item, path in zip(made, paths, strict=True):
            item.save(path)
    for path in paths:
        print(path)


def convert(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    kind: Kind | None = None,
    scale: float | None = None,
    half: bool = False,
) -> None:
    """Turn an original checkpoint of Luo & Hu (GEN_airplane.pt, AE_all.pt, ckpt_*.pt) into a model folder.

    Args:
        checkpoint: what their program saved; read with weights_only and an allow-list of one class.
        out: folder to write config.json and model.safetensors to.
        kind: which model, where the file does not say.
        scale: for scale_mode global_unit: std of its data set, from the stats_*.pt beside it.
        half: store half precision.
    """
    check_folder(out)
    found = load_original(checkpoint, kind, scale)
    found.save_pretrained(out, half=half)
    count = sum(p.numel() for p in found.parameters())
    print(f"{out}: {type(found).__name__}, {count:,} parameters")


def train(argv: Sequence[str]) -> None:
    """`trifold pointcloud train PRESET [flags]`: presets are complete configurations, which flags change."""
    from . import training
    from .luo_hu import training as luo_hu

    presets = {**training.PRESETS, **{f"luo-hu-{name}": preset for name, preset in luo_hu.PRESETS.items()}}
    config = chosen_preset("pointcloud", presets, argv)
    original = isinstance(config, luo_hu.LuoHuTraining)
    result = luo_hu.run_training(config) if original else training.run_training(config)
    print(f"{'stopped' if result.interrupted else 'trained'} at step {result.step}; see {config.output_dir}")


COMMANDS = {
    "generate": generate,
    "interpolate": interpolate,
    "evaluate": evaluate,
    "mesh": mesh,
    "convert": convert,
}


def run(argv: Sequence[str]) -> None:
    """Entry of `trifold pointcloud`."""
    about = "Point clouds and meshes of shapes: draw, interpolate, mesh, measure and train."
    run_commands("pointcloud", about, {**COMMANDS, "train": train}, argv, SEVERAL)


def paired(steps: Sequence[int], samplers: Sequence[SamplerName]) -> list[tuple[int | None, SamplerName | None]]:
    """(steps, sampler) of every row; a single sampler goes with all. Raises PointCloudError where they do not pair."""
    if len(steps) == len(samplers) and steps:
        return list(zip(steps, samplers, strict=True))
    if len(samplers) > 1:
        raise PointCloudError(f"samplers: {len(samplers)} for {len(steps)} entries of steps")
    sampler: SamplerName | None = samplers[0] if samplers else None
    return [(n, sampler) for n in steps] if steps else [(None, sampler)]


class _Comparing:
    """A bar, on a terminal, for every matrix of distances and every search for exact EMD."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, progress: Progress) -> None:
        if self.bar is None or progress.done < self.bar.n or self.bar.total != progress.total:
            self.close()
            self.bar = tqdm(desc="comparing", total=progress.total, unit=f" {progress.what}", leave=False, disable=None)
        self.bar.update(progress.done - self.bar.n)
        if progress.done == progress.total:
            self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def _sampled(path: Path, num_points: int) -> int | None:
    """How many points to draw of a file: of a surface as many as are wanted, a cloud is taken as it is."""
    from .cloud_files import read_geometry

    return None if isinstance(read_geometry(path), PointCloud) else num_points


def _clouds_of(name: str, num_points: int) -> list[PointCloud]:
    """The clouds of a folder of cloud files, see `load_clouds`; none for anything else, which a packaged name is even
    where a folder is called so."""
    folder = Path(name).expanduser()
    is_model = name in PointDiffusion.packaged or not folder.is_dir() or (folder / "config.json").is_file()
    return [] if is_model else load_clouds(folder, num_points)
