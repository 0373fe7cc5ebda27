"""The demo, with what ships: floorplans for bubble diagrams, shapes and their meshes, a clip edited by prompts."""

import argparse
import time
import webbrowser
from importlib.util import find_spec
from pathlib import Path

from trifold.common.command_line import show_progress
from trifold.floorplan import BubbleDiagram, HouseDiffusion, best_of, finish
from trifold.floorplan.animate import save_animation
from trifold.floorplan.checking import cost
from trifold.floorplan.finishing import clear_plan
from trifold.floorplan.page import save_page
from trifold.floorplan.sheet import contact_sheet, save_picture
from trifold.pointcloud import PointDiffusion
from trifold.pointcloud.output import save_shapes
from trifold.video.commands import tune
from trifold.video.run_config import EditSettings, Reading, VideoRun
from trifold.video.sprites.render import sprite_clip
from trifold.video.sprites.words import Scene, caption

DIAGRAMS = {
    "two_bedrooms": "Six rooms: two bedrooms around a living room",
    "family_eight_rooms": "Eight rooms: a family flat",
    "bay_corner_studio": "Four rooms, not Manhattan: five-cornered rooms ask for oblique walls",
}
SCENE = Scene("red", shape="car", motion="right", background="meadow", seed=7)
EDITS = (
    "a blue car moving to the right on a meadow",
    "a red heart moving to the right on a meadow",
    "a red car moving to the right under a night sky",
    "a red car moving to the right on a meadow, cartoon style",
)


def floorplans(folder: Path, num_plans: int, steps: int, tries: int) -> Path:
    """Draw plans for every diagram, finish them and keep the best; returns the page that shows them."""
    model = HouseDiffusion.from_pretrained("procedural")
    sections, everything = [], []
    for name, text in DIAGRAMS.items():
        diagram = BubbleDiagram.example(name)
        best = best_of(model, diagram, num_plans, tries, steps=steps, finish=finish, progress=show_progress)
        print(f"{name}: {cost(best)}")
        finished = [one.finished for one in best if one.finished is not None]
        plans = [clear_plan(plan) for plan in finished]
        sections.append((name.replace("_", " "), text, plans, diagram))
        everything += plans
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, plan in enumerate(finished):
            for suffix in (".svg", ".json", ".geojson", *([".dxf"] if find_spec("ezdxf") else [])):
                plan.save(folder / name / f"plan-{i}{suffix}")
    save_page(folder / "index.html", sections, title="Floor plans from bubble diagrams")
    save_picture(contact_sheet(everything, columns=num_plans), folder / "sheet.png")
    frames = model.frames(BubbleDiagram.example("two_bedrooms"), steps=2 * steps)
    save_animation(frames, folder / "denoising.gif")
    return folder / "index.html"


def shapes(folder: Path, num_shapes: int, steps: int) -> Path:
    """Draw shapes of every class and make meshes of them; returns the page to turn them on."""
    model = PointDiffusion.from_pretrained("procedural")
    classes = [name for name in model.config.class_names for _ in range(num_shapes)]
    clouds = model.generate(len(classes), class_name=classes, steps=steps, progress=show_progress)
    meshes = [cloud.to_mesh() for cloud in clouds]
    print(f"shapes: {len(clouds)} clouds, {sum(mesh.is_watertight for mesh in meshes)} watertight meshes")
    title = "Shapes drawn by class, and their meshes"
    save_shapes(clouds, folder, title=title, meshes=meshes, columns=4 * num_shapes)
    return folder / "index.html"


def video(folder: Path, tuning_steps: int, steps: int) -> Path:
    """Tune on a clip of the sprites world and edit it; returns the page that plays source and edits."""
    source = folder.with_name("source.mp4")
    sprite_clip(SCENE, num_frames=8).clip.save(source)
    tune(
        VideoRun(
            clip=source,
            prompt=caption(SCENE),
            edit_prompts=EDITS,
            output_dir=folder,
            max_train_steps=tuning_steps,
            learning_rate=3e-4,
            gradient_checkpointing=False,
            report_to="none",
            resume_from_checkpoint="latest",
            reading=Reading(num_frames=8),
            edit=EditSettings(steps=steps, guidance_scale=5.0),
        )
    )
    return folder / "index.html"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=Path("demo"))
    parser.add_argument("--num-plans", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a plan")
    parser.add_argument("--tries", type=int, default=4, help="plans drawn for every one that is kept")
    parser.add_argument("--num-shapes", type=int, default=2, help="shapes of each class")
    parser.add_argument("--shape-steps", type=int, default=20, help="denoising steps of a shape")
    parser.add_argument("--tuning-steps", type=int, default=250, help="updates on the clip")
    parser.add_argument("--edit-steps", type=int, default=40, help="denoising steps of an edit")
    parser.add_argument("--open", action="store_true", help="open the pages in a browser")
    args = parser.parse_args()
    start = time.perf_counter()
    pages = [
        floorplans(args.output_dir / "floorplan", args.num_plans, args.steps, args.tries),
        shapes(args.output_dir / "shapes", args.num_shapes, args.shape_steps),
        video(args.output_dir / "video", args.tuning_steps, args.edit_steps),
    ]
    print(*pages, f"({time.perf_counter() - start:.0f} s)")
    for page in pages if args.open else ():
        webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
