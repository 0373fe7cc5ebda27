"""The demo: three bubble diagrams, drawn by the shipped model, on one page."""

import argparse
import time
import webbrowser
from pathlib import Path

from trifold.floorplan import BubbleDiagram, HouseDiffusion
from trifold.floorplan.animate import save_animation
from trifold.floorplan.commands import show_progress
from trifold.floorplan.page import save_page
from trifold.floorplan.sheet import contact_sheet, save_picture

DIAGRAMS = {
    "two_bedrooms": "Six rooms: two bedrooms around a living room",
    "family_eight_rooms": "Eight rooms: a family flat",
    "bay_corner_studio": "Four rooms, not Manhattan: five-cornered rooms ask for oblique walls",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=Path("demo"))
    parser.add_argument("--num-plans", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    args = parser.parse_args()
    start = time.perf_counter()
    model = HouseDiffusion.from_pretrained("procedural")
    sections, everything = [], []
    for name, caption in DIAGRAMS.items():
        diagram = BubbleDiagram.example(name)
        plans = model.generate(diagram, args.num_plans, steps=args.steps, progress=show_progress)
        print(f"{name}: {len(plans)} plans")
        sections.append((name.replace("_", " "), caption, plans, diagram))
        everything += plans
        (args.output_dir / name).mkdir(parents=True, exist_ok=True)
        for i, plan in enumerate(plans):
            plan.save(args.output_dir / name / f"plan-{i}.svg")
            plan.save(args.output_dir / name / f"plan-{i}.json")
    save_page(args.output_dir / "index.html", sections, title="Floor plans from bubble diagrams")
    save_picture(contact_sheet(everything, columns=args.num_plans), args.output_dir / "sheet.png")
    frames = model.frames(BubbleDiagram.example("two_bedrooms"), steps=args.steps)
    save_animation(frames, args.output_dir / "denoising.gif")
    print(f"{args.output_dir / 'index.html'}  ({time.perf_counter() - start:.0f} s)")
    if args.open:
        webbrowser.open((args.output_dir / "index.html").resolve().as_uri())


if __name__ == "__main__":
    main()
