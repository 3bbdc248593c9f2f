"""`upsnet weights`: list, get and check published weights."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upsnet_ros.cli.commands import fail
from upsnet_ros.cli.options import command_group, require_file, require_path
from upsnet_ros.cli.terminal import console, shows_progress, with_progress
from upsnet_ros.datasets.taxonomy import get_taxonomy
from upsnet_ros.errors import CheckpointError, DownloadError, OutputError
from upsnet_ros.weights import cache_folder, find_weights, shipped_weights
from upsnet_ros.weights.catalogue import CATALOGUE, Entry, File, digest_in, find_entry
from upsnet_ros.weights.download import Progress, download, file_name
from upsnet_ros.weights.install import (
    Digests,
    Installed,
    check_kind,
    digests_of,
    install,
    licence_text,
    prepare_folder,
    public_source,
    read_installed,
    source_of,
)

if TYPE_CHECKING:
    from upsnet_ros.evaluation.metrics import EvaluationResult

weights = command_group("weights", "List, get and check published weights.")

#: Images of COCO val2017, on which quality is published.
_VAL_IMAGES = 5000
#: How far the PQ, in percent, may be from the published one: order of sums and image decoders.
_TOLERANCE = 0.3

_Name = Annotated[str, typer.Argument(metavar="NAME", help="As `upsnet weights list` has them.")]


@weights.command("list")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the weights that have a name, and say which of them are here."""
    rows = [_row(entry) for entry in CATALOGUE.values()]
    folder = cache_folder()
    if as_json:
        typer.echo(json.dumps({"folder": folder and str(folder), "weights": rows}, indent=1))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    for column in ("classes", "PQ %", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("licence", "from", "here"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['stuff']} + {row['things']}",
            f"{row['quality']}",
            f"{row['megabytes']}",
            row["licence"],
            row["origin"],
            row["state"],
        )
    out = console()
    out.print(table)
    out.print("Classes: stuff + things. PQ: published panoptic quality, on")
    for measured_on in dict.fromkeys(row["measured_on"] for row in rows):
        names = [row["name"] for row in rows if row["measured_on"] == measured_on]
        out.print(f"  {measured_on}: {', '.join(names)}")
    out.print("Sources:")
    for page in dict.fromkeys(row["page"] for row in rows):
        out.print(f"  {page}")
    if folder is not None:
        out.print(f"Downloads: {folder}")


def _row(entry: Entry) -> dict[str, Any]:
    taxonomy = get_taxonomy(entry.dataset)
    return {
        "name": entry.name,
        "dataset": entry.dataset,
        "stuff": taxonomy.num_stuff,
        "things": len(taxonomy.classes) - taxonomy.num_stuff,
        "quality": entry.file.quality,
        "measured_on": entry.file.measured_on,
        "megabytes": entry.megabytes,
        "licence": entry.licence.name,
        "licence_url": entry.licence.url,
        "commercial_use": entry.licence.commercial,
        "origin": entry.origin,
        "page": entry.page,
        "files": [asdict(file) for file in entry.files],
        "state": _state(entry),
    }


def _state(entry: Entry) -> str:
    if shipped_weights(entry.name) is not None:
        return "bundled"
    try:
        return "no" if read_installed(entry) is None else "yes"
    except OutputError:
        return "blocked"


@weights.command("get")
def get(
    name: _Name,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take this file; download nothing.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Download from this address.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the licence.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace weights of that name that are here.")
    ] = False,
) -> None:
    """Get weights into the cache folder, where every command finds them by name.

    Shows licence and attribution, downloads (or takes --file), checks digest, names and shapes,
    and writes safetensors to ~/.cache/upsnet_ros/weights (UPSNET_WEIGHTS names another folder).
    """
    entry = find_entry(name)
    out = console(soft_wrap=True)
    if file is not None and url is not None:
        fail("--file and --url exclude each other")
    bundled = shipped_weights(entry.name)
    if bundled is not None:
        if file is not None or url is not None:
            fail(f"{entry.name} comes with this package; pass your file as weights directly")
        out.print(f"{entry.name} comes with this package: {bundled}")
        return
    require_file(file)
    if file is not None:
        check_kind(file.expanduser(), source=str(file))
    address = url or entry.file.url
    if file is None and address is None:
        fail(
            f"{entry.name} is {entry.file.name}, linked from {entry.page}: pass the file with"
            " --file, or its address with --url"
        )
    if url is not None:
        file_name(url)  # in case it is not one
    here = None if overwrite else _already_here(entry, file, url)
    if here is not None:
        out.print(f"{entry.name} is here already, and intact: {here}")
        return
    target = prepare_folder(entry)
    _accept(entry, yes=yes)
    if file is not None:
        installed = _from_file(entry, file)
    else:
        assert address is not None  # checked above
        installed = _from_url(entry, address, target.parent, chosen=url is not None)
    out.print(f"wrote {installed.path}")
    out.print(f"use it by name: weights:={entry.name}, or --weights {entry.name}")


def _from_file(entry: Entry, file: Path) -> Installed:
    path = file.expanduser()
    source, digests = source_of(entry, path)
    if source != str(path):
        console(soft_wrap=True).print(f"{file} was converted before, as it says from {source}")
    published = entry.published_as(digests.md5)
    _show_digests(digests, published)
    wanted = digest_in(path.name) or entry.file.md5
    if published is None and wanted and not digests.md5.startswith(wanted):
        console(stderr=True, soft_wrap=True).print(
            f"warning: the MD5 of {file} does not begin with {wanted}: it is not the published"
            " file, or it is damaged. Trying it, as you named it.",
            style="yellow",
        )
    return install(entry, path, source=source, digests=digests, published=published)


def _from_url(entry: Entry, url: str, folder: Path, *, chosen: bool) -> Installed:
    advice = f"or get {entry.file.name} elsewhere and pass it with --file"
    try:
        with (
            _download_progress(f"downloading {file_name(url) or url}") as progress,
            download(url, folder, progress=progress) as found,
        ):
            digests = digests_of(found.path)
            published = entry.published_as(digests.md5)
            wanted = digest_in(file_name(url)) or ("" if chosen else entry.file.md5)
            try:
                if wanted and not digests.md5.startswith(wanted):
                    raise DownloadError(
                        f"what came from {url} is not the published file: its MD5 is"
                        f" {digests.md5}, not {wanted}...; it was removed"
                    )
                check_kind(found.path, source=url)
                _show_digests(digests, published)
                installed = install(
                    entry, found.path, source=url, digests=digests, published=published
                )
            except (CheckpointError, DownloadError):
                found.remove()  # whatever it is, it is wrong
                raise
            found.remove()
            return installed
    except KeyboardInterrupt:
        typer.echo("stopped; the same command continues the download", err=True)
        raise
    except DownloadError as error:
        raise DownloadError(f"{error}; try again later, {advice}") from None


def _already_here(entry: Entry, file: Path | None, url: str | None) -> Path | None:
    """Return the file in the cache folder that makes getting it again needless."""
    here = read_installed(entry)
    if here is None:
        return None
    if not here.is_intact():
        console(stderr=True, soft_wrap=True).print(f"{here.path} is damaged: getting it again")
        return None
    source = here.metadata.get("source")
    other = url is not None and public_source(url) != source
    if file is not None:
        _, digests = source_of(entry, file.expanduser())
        other = digests.sha256 != here.metadata.get("source_sha256")
    if other:
        fail(f"{here.path} is from another file, {source}: --overwrite replaces it")
    return here.path


def _accept(entry: Entry, *, yes: bool) -> None:
    """Show the licence, and end the command unless the user accepts it."""
    typer.echo(licence_text(entry), err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        fail(
            f"stdin is not a terminal, so nobody can be asked to accept {entry.licence.name}: pass"
            " --yes to accept it"
        )
    if not typer.confirm("Accept the licence?", err=True):
        fail("the licence was not accepted, and nothing was downloaded")


def _show_digests(digests: Digests, published: File | None) -> None:
    out = console(soft_wrap=True)
    out.print(f"SHA-256 {digests.sha256}")
    if published is not None:
        out.print(f"MD5 {digests.md5}: {published.name}, {published.note}, {published.published}")
    else:
        out.print(f"MD5 {digests.md5}")


@contextmanager
def _download_progress(what: str) -> Iterator[Progress]:
    """A bar on stderr for a user who watches; a line for a log."""
    import rich.progress

    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=20),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console(stderr=True),
        disable=not shows_progress(),
    ) as bar:
        task = bar.add_task(what, total=None)
        announced = not bar.disable

        def update(have: int, total: int | None) -> None:
            nonlocal announced
            if not announced:  # a log has one line in place of the bar
                size = "" if total is None else f" ({total / 1e6:.1f} MB)"
                bar.console.print(f"{what}{size}")
                announced = True
            bar.update(task, completed=have, total=total)

        yield update


@weights.command("check")
def check(
    name: _Name,
    coco: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="COCO: val2017/, annotations/panoptic_val2017{.json,/}. Required.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many images, evenly spread; no verdict.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or auto.")] = "fp32",
    scale: Annotated[
        int | None, typer.Option(help="Short side of the network input; another has no verdict.")
    ] = None,
) -> None:
    """Evaluate weights on COCO val2017, and compare with their published quality.

    Exit code 1 if all 5000 images were evaluated and the PQ is not the published one.
    """
    entry = find_entry(name)
    if entry.dataset != "coco":
        fail(
            f"the quality of {entry.name} is of {entry.file.measured_on}: use `upsnet evaluate`"
            f" with --weights {entry.name}"
        )
    path = find_weights(entry.name)
    if coco is None:
        raise typer.BadParameter("name the folder of COCO", param_hint="'--coco'")
    require_path(coco, "folder")
    annotations = coco / "annotations" / "panoptic_val2017.json"
    for needed in (coco / "val2017", annotations, annotations.with_suffix("")):
        require_path(needed, "part of COCO's panoptic validation set,")
    published, why_not = _published(entry)
    result = _evaluate(
        entry, path, coco, limit=limit, device=device, precision=precision, scale=scale
    )
    out = console(soft_wrap=True)
    low, high = result.intervals.get("PQ", (float("nan"), float("nan")))
    interval = "" if math.isnan(low) else f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    out.print(f"PQ {100 * result.pq:.2f}{interval} on {len(result.frames)} images of {coco}")
    out.print(f"published: {published.published}")
    if scale is not None:
        why_not = "it is of the network's own scale"
    elif len(result.frames) != _VAL_IMAGES:
        why_not = f"it is of all {_VAL_IMAGES} images"
    difference = 100 * result.pq - published.quality
    if why_not:
        out.print(f"no verdict on the published figure: {why_not}")
    elif abs(difference) > _TOLERANCE:
        fail(f"the PQ differs from the published one by {difference:+.2f}: please report it")
    else:
        out.print(f"they agree (difference {difference:+.2f}): please tell the project")


def _published(entry: Entry) -> tuple[File, str]:
    """Return the published figure of the weights that are here, and why it may not be theirs."""
    here = read_installed(entry)
    md5 = "" if here is None else here.metadata.get("source_md5", "")
    file = entry.published_as(md5)
    if file is None and any(one.md5 for one in entry.files):
        return entry.file, "the MD5 of these weights is not that of a published file"
    file = file or entry.file
    other = file.measured_on != "COCO val2017"
    return file, f"it is of {file.measured_on}" if other else ""


def _evaluate(
    entry: Entry,
    path: Path,
    coco: Path,
    *,
    limit: int | None,
    device: str,
    precision: str,
    scale: int | None,
) -> EvaluationResult:
    # Only here: torch takes seconds to import.
    from upsnet_ros.evaluation.datasets import ModelFrames, open_dataset
    from upsnet_ros.evaluation.metrics import evaluate
    from upsnet_ros.inference.predictor import Predictor

    data = open_dataset("coco", coco, None)
    predictor = Predictor(path, variant=entry.name, device=device, precision=precision, scale=scale)
    number = min(limit or len(data), len(data))
    frames = ModelFrames(
        data, predictor, indices=[index * len(data) // number for index in range(number)]
    )
    return evaluate(with_progress(frames, number, "evaluating"), frames.categories)
