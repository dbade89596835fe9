"""`quadriga code rank`: thin; reads samples and verdicts, says how good each way of choosing one is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quadriga.codegen.options import AsJson, Device, Dtype, Problems, Seed, Unsafe, Workers, cpus
from quadriga.platform.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from quadriga.codegen.estimators import PassAtK
    from quadriga.codegen.judged_samples import Judged
    from quadriga.codegen.problems import Problem

DEFAULT = "random,mean-logprob,sum-logprob,agreement,oracle"


def rank(
    samples: Annotated[
        Path, typer.Argument(metavar="SAMPLES.jsonl", help="Of quadriga code sample.", show_default=False)
    ],
    results: Annotated[
        Path | None, typer.Option("--results", metavar="FILE", help="Verdicts; by default SAMPLES.results.jsonl.")
    ] = None,
    problems: Problems = "humaneval",
    by: Annotated[str, typer.Option("--by", metavar="R,R,...", help="Rankings; also: back-translation.")] = DEFAULT,
    docstring_model: Annotated[
        str | None, typer.Option("--docstring-model", metavar="MODEL", help="For back-translation.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.png", help="Picture; by default SAMPLES.ranking.png.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Wall seconds of a sample.")] = 3.0,
    seed: Seed = 0,
    workers: Workers = None,
    unsafe: Unsafe = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Choose one of n samples without looking at the tests, in several ways; draw the paper's figure 7.

    \b
    quadriga code rank samples.jsonl
    quadriga code rank samples.jsonl --by random,mean-logprob,back-translation,oracle --docstring-model smollm2
    """
    from quadriga.codegen import judged_samples, pictures, ranking, sweep
    from quadriga.codegen.command import default_out
    from quadriga.codegen.problems import problems as load_problems
    from quadriga.platform.tables import print_table

    chosen = list(dict.fromkeys(by.split(",")))
    for name in chosen:
        if name not in ranking.RANKINGS:
            raise unknown("ranking", name, ranking.RANKINGS)
    if ("back-translation" in chosen) != (docstring_model is not None):
        raise UserError("back-translation and --docstring-model go together: give both or none")
    known = load_problems(problems)
    judged = judged_samples.read(samples, results or default_out(samples), known)
    found = {task: judged_samples.candidates(each, samples) for task, each in judged.items()}
    fewest = min(len(each.correct) for each in found.values())
    if fewest < 2:
        raise UserError(f"{samples}: to choose, each problem needs 2 samples or more; some have {fewest}")
    if docstring_model is not None:
        scored = _back_translation(samples, judged, known, docstring_model, dtype, device)
        for task, each in found.items():
            each.scores["back-translation"] = scored[task]
    if "agreement" in chosen:
        matrices = _agreement(judged, known, timeout, workers or cpus(), unsafe, seed)
        found = {task: replace(each, agreement=matrices[task]) for task, each in found.items()}
    each_one = list(found.values())
    ks = sweep.curve_ks(fewest)
    curves = {name: ranking.curve(name, each_one, ks, seed) for name in chosen}
    gains = {name: ranking.gain(name, each_one, fewest, seed) for name in chosen if name != "random"}
    picture = out or _beside(samples, "ranking.png")
    title = f"One of n samples, {len(each_one)} problems of {Path(problems).name}"
    pictures.save(pictures.rankings(curves, title), picture)
    numbers = _numbers(curves, gains, fewest, len(each_one))
    _beside(samples, "ranking.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="ascii")
    if as_json:
        from quadriga.platform.progress import json_line

        print(json_line({**numbers, "picture": str(picture)}))
        return
    rows = []
    for name, curve in curves.items():
        gain = gains.get(name)
        shown = f"{gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]" if gain else ""
        rows.append((name, f"{curve[fewest]:.4f}", shown))
    print_table(("ranking", f"right, of {fewest} samples", "against random, 95% over problems"), rows)
    print(f"numbers: {_beside(samples, 'ranking.json')}\npicture: {picture}")


def _numbers(
    curves: Mapping[str, Mapping[int, float]], gains: Mapping[str, PassAtK], fewest: int, problems: int
) -> dict[str, object]:
    against = {name: [gain.estimate, gain.low, gain.high] for name, gain in gains.items()}
    shown = {name: {str(k): value for k, value in curve.items()} for name, curve in curves.items()}
    return {"problems": problems, "samples": fewest, "curves": shown, "against_random": against}


def _beside(samples: Path, ending: str) -> Path:
    return samples.with_name(f"{samples.name.removesuffix('.gz').removesuffix('.jsonl')}.{ending}")


def _back_translation(
    samples: Path,
    judged: Mapping[str, list[Judged]],
    known: Mapping[str, Problem],
    model: str,
    dtype: str,
    device: str,
) -> dict[str, np.ndarray]:
    import numpy as np

    from quadriga.codegen import back_translation, models
    from quadriga.codegen.engines import Setup

    source = models.find(model)
    work = [(known[task], each.sample) for task, group in judged.items() for each in group]
    path = _beside(samples, "back-translation.jsonl")
    loader = Setup(source, dtype, device, slots=0).load
    scores = iter(back_translation.scores(work, path, source.fingerprint(), loader))
    return {task: np.array([next(scores) for _ in group]) for task, group in judged.items()}


def _agreement(
    judged: Mapping[str, list[Judged]],
    known: Mapping[str, Problem],
    timeout: float,
    workers: int,
    unsafe: bool,
    seed: int,
) -> dict[str, np.ndarray]:
    from quadriga.codegen import agreement
    from quadriga.codegen.pool import LocalPool
    from quadriga.codegen.ranking import agreement_matrix
    from quadriga.codegen.sandbox.limits import Limits

    limits = Limits(wall_s=timeout)
    work = [(known[task], each.sample.code, each.sample.whole) for task, group in judged.items() for each in group]
    pool = LocalPool(workers, limits, "split", unsafe=unsafe)
    try:
        outputs = iter(agreement.outputs(pool, work, limits, seed))
    finally:
        pool.close()
    return {task: agreement_matrix([next(outputs) for _ in group]) for task, group in judged.items()}
