"""Pictures of the page of a running `imagesprint serve` in headless Chromium, for people to look at.

    imagesprint serve RUN &
    python benchmarks/serve_page.py http://127.0.0.1:8000 PHOTO… --output DIR

Light and dark, 400 and 1280 pixels wide: as it is opened, and with the photos answered. Exits 3 where one was not,
where the page asked another host for something, where it is wider than its window, or where its console complained.
`tests/serving/test_page_in_chromium.py` checks what it does.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent / "servers"))
from chromium import Chromium

WIDTHS, HEIGHT = (400, 1280), 900
ANSWERED = 'document.querySelectorAll(".classes:not(:empty)").length'
WAITING = 'document.getElementById("said").textContent === ""'
PICTURES = "Array.from(document.images).every((one) => one.complete)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", metavar="URL")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the pictures go")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    photos = [photo.resolve(strict=True) for photo in args.photos]
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Chromium(Path(folder)) as browser:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                page = browser.open_page(args.url, width, HEIGHT, dark=scheme == "dark")
                page.wait_for('!document.getElementById("facts").hidden')
                page.screenshot(args.output / f"{width}-{scheme}.png")
                page.drop(photos, width // 2, HEIGHT // 2)
                page.wait_for(f"!({WAITING}) && {PICTURES}")
                page.screenshot(args.output / f"{width}-{scheme}-answered.png")
                others = {urlsplit(url).netloc for url in page.requests} - {urlsplit(args.url).netloc, ""}
                wrong += [f"{width} {scheme}: {what}" for what in [*page.complaints, *others]]
                if (answered := page.evaluate(ANSWERED)) != len(photos):
                    wrong.append(f"{width} {scheme}: {answered} of {len(photos)} photos are answered")
                if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    wrong.append(f"{width} {scheme}: the page is wider than its window")
    print("\n".join(wrong) or f"pictures in {args.output}")
    return 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
