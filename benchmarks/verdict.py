"""Does the verdict catch ruined registrations, and does it leave good ones alone? On real pairs of brains.

    SYNTHMORPH_DATA=FOLDER python benchmarks/verdict.py --cache FOLDER [--out benchmarks/verdict.md]

Good: what the compact model makes of a pair. Ruined, from each pair: the good result after a mirror or a half turn of
the fixed image (flipped, upside down) or a random affine transform, two of the three in turn (one for tuning); the
registration of a moving image of which half the content was cut off ("half, registered", every third or sixth pair) or
the good result with a moving image cut afterwards ("half, kept"); and another part of the body, registered to six of
the fixed images. There is no such scan in the data pack: chest, thigh and kidneys are made up of ellipsoids with
texture. Limits of the verdict were chosen on the first list of pairs and are measured on the second; no person occurs
in both. Neither labels nor landmarks are used.

One thing was mended after a first run on the second list: the mask of the content took a few negative voxels of the
msx19 scans for the background and let the whole volume count as brain, so that 2 of the 18 good ones were called
failed.

Registrations and findings are kept in the folder of --cache: what is there is not done again.
"""
from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import registered as kept
import SimpleITK as sitk

# moving > fixed; no person of the one list occurs in the other
TUNING = """malf1000>malf1001 malf1001>malf1000 oasis>malf1000 malf1001>oasis avg152T1>malf1001 malf1000>avg152T1
avg152T2>oasis oasis>avg152T2 chris_t1>avg152T1 chris_t1>malf1000 oasis>chris_t1 chris_PD>chris_t1 avg152PD>malf1001
chris_PD>avg152T1"""
EVALUATION = """malf1113>malf1122 malf1122>malf1113 eve>malf1113 malf1122>eve eve>single_subj single_subj>eve
malf1113>single_subj msx19_T1>eve eve>msx19_T1 msx19_FLAIR>malf1113 malf1122>msx19_FLAIR ms12_T1>eve ms12_T2>eve
ms12_FLAIR>malf1113 ms12_T1>ms12_T2 ms12_FLAIR>ms12_T1 ms12_T2>single_subj ms12_FLAIR>msx19_T1"""
ORGANS = {"tuning": ("chest0", "thigh0"), "evaluation": ("chest1", "thigh1", "kidneys1")}
KINDS = ("good", "flipped", "upside down", "random affine", "half, registered", "half, kept", "wrong organ")
COMPOSED = ("flipped", "upside down", "random affine")
Finding = dict[str, Any]


def pairs_of(group: str) -> list[tuple[int, str, str]]:
    """Number (over both lists), moving and fixed image of each pair."""
    first, second = TUNING.split(), EVALUATION.split()
    chosen, start = (first, 0) if group == "tuning" else (second, len(first))
    return [(start + n, *pair.split(">")) for n, pair in enumerate(chosen)]  # type: ignore[misc]


def cut(number: int, image: sitk.Image) -> sitk.Image:
    """Half of an image; which half depends on the pair."""
    return kept.halved(image, number // 3 % 3, bool(number % 2))


def wrong_affine(kind: str, center: np.ndarray, seed: int) -> sitk.Transform:
    """What ruins a result when it acts on the fixed points first."""
    matrix = {"flipped": np.diag([-1.0, 1, 1]), "upside down": np.diag([1.0, -1, -1])}.get(kind)
    shift = np.zeros(3)
    if matrix is None:
        random = np.random.default_rng(seed)
        axis = random.normal(size=3)
        turn = sitk.VersorTransform((axis / np.linalg.norm(axis)).tolist(), np.radians(random.uniform(20, 90)))
        shear = np.eye(3) + np.triu(random.uniform(-0.3, 0.3, (3, 3)), 1)
        matrix = np.reshape(turn.GetMatrix(), (3, 3)) @ np.diag(np.exp(random.uniform(-0.4, 0.4, 3))) @ shear
        shift = random.uniform(-30, 30, 3)
    transform = sitk.AffineTransform(3)
    transform.SetCenter(center.tolist())
    transform.SetMatrix(matrix.ravel().tolist())
    transform.SetTranslation(shift.tolist())
    return transform


def cases(group: str, cache: Path, model: Any) -> Iterator[tuple[str, str, Any]]:
    """Kind, name, and a function that makes the case (or the sentence with which the program refused)."""
    get = functools.lru_cache(maxsize=4)(kept.read)

    def made(name: str, moving: Any, fixed: str, ruin: str = "", seed: int = 0) -> Any:
        from synthmorph_torch.review import Case

        found = kept.registered(cache, name, moving(), get(fixed), model)
        if found.refused:
            return found.refused
        if not ruin:
            return Case(found.forward, found.backward, moving(), get(fixed))
        wrong = wrong_affine(ruin, kept.middle(get(fixed))[0], seed)
        return Case(kept.single(sitk.CompositeTransform([found.forward, wrong])),
                    kept.single(sitk.CompositeTransform([wrong.GetInverse(), found.backward])), moving(), get(fixed))

    def halves(name: str, number: int, m: str, f: str) -> Any:
        from synthmorph_torch.review import Case

        found = kept.registered(cache, name, get(m), get(f), model)
        return Case(found.forward, found.backward, cut(number, get(m)), get(f))

    for number, m, f in pairs_of(group):
        name, whole = f"good.{m}.{f}", functools.partial(get, m)
        yield "good", f"{m} > {f}", functools.partial(made, name, whole, f)
        for kind in [COMPOSED[(number + n) % 3] for n in range(2 if group == "evaluation" else 1)]:
            yield kind, f"{m} > {f}", functools.partial(made, name, whole, f, kind, number)
        if number % (3 if group == "tuning" else 6):
            yield "half, kept", f"{m} > {f}", functools.partial(halves, name, number, m, f)
        else:
            part = functools.partial(lambda n, one: cut(n, get(one)), number, m)
            yield "half, registered", f"{m} > {f}", functools.partial(made, f"half.{m}.{f}", part, f)
    for number, f in enumerate(list(dict.fromkeys(f for _, _, f in pairs_of(group)))[:6]):
        organ = ORGANS[group][number % len(ORGANS[group])]
        yield "wrong organ", f"{organ} > {f}", functools.partial(
            made, f"organ.{organ}.{f}", functools.partial(kept.organ, organ[:-1], int(organ[-1])), f)


def findings(group: str, cache: Path, model: Any, backwards: bool = False) -> list[Finding]:
    """What the checks find on every case: its values by key."""
    from synthmorph_torch import review
    from synthmorph_torch.review.verdict import quick_checks

    result = []
    todo = list(cases(group, cache, model))
    for kind, name, make in reversed(todo) if backwards else todo:
        path = cache / "findings" / f"{kind} {name}.json".replace(" ", "_").replace(">", "to")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            case, start = make(), time.perf_counter()
            if isinstance(case, str):
                found: Finding = {"refused": case, "checks": {}}
            else:
                checks = quick_checks(case)
                if group == "tuning" or not any(c.status == "bad" for c in checks):  # failed is failed
                    checks = list(review.judge(case, review.table(case)).checks)
                found = {"refused": "", "checks": {c.key: c.value for c in checks},
                         "seconds": time.perf_counter() - start}
            path.write_text(json.dumps(found))
            print(f"{time.strftime('%H:%M:%S')} {kind}: {name}", flush=True)
        result.append({"group": group, "kind": kind, "name": name, **json.loads(path.read_text())})
    return result


def statuses(found: Finding) -> dict[str, str]:
    """The status of each check by the limits of today, so that findings need not be made again when limits change."""
    from synthmorph_torch.review.verdict import limit_of

    return {key: limit_of(key).status(value) for key, value in found["checks"].items()}


def word(found: Finding) -> str:
    """failed, look closely or good; a registration that was refused counts as failed."""
    if found["refused"]:
        return "failed"
    known = statuses(found).values()
    return "failed" if "bad" in known else "look closely" if "look" in known else "good"


def to_markdown(everything: list[Finding]) -> str:
    """A table per list, then every case that the verdict got wrong."""
    parts = []
    for group, title in (("evaluation", "Evaluation"), ("tuning", "Tuning (limits were chosen on these)")):
        rows = [one for one in everything if one["group"] == group]
        parts += [f"## {title}", "", *counts(rows), ""]
        wrong = [one for one in rows if (one["kind"] == "good") == (word(one) == "failed")]
        looked = [one for one in rows if one["kind"] == "good" and word(one) == "look closely"]
        for heading, chosen in (("Misjudged (ruined and not failed, or good and failed):", wrong),
                                ("Good, and called look closely:", looked)):
            parts += [heading, "", *(f"- {one['kind']}, {one['name']}: {why(one)}" for one in chosen or [])]
            parts += ["- none", ""] if not chosen else [""]
    return "\n".join(parts)


def counts(rows: list[Finding]) -> list[str]:
    """How often each word was said, by kind of ruin."""
    lines = ["| registrations | number | failed | look closely | good |", "|---|---|---|---|---|"]
    ruined = [one for one in rows if one["kind"] != "good"]
    for kind, chosen in [*((k, [one for one in rows if one["kind"] == k]) for k in KINDS), ("**all ruined**", ruined)]:
        found = [sum(word(one) == w for one in chosen) for w in ("failed", "look closely", "good")]
        cells = " | ".join(f"{n} ({100 * n / max(len(chosen), 1):.0f} %)" for n in found)
        lines.append(f"| {kind} | {len(chosen)} | {cells} |")
    return lines


def why(found: Finding) -> str:
    """The word and the checks behind it."""
    known = statuses(found)
    keys = [k for k, s in known.items() if s == "bad"] or [k for k, s in known.items() if s == "look"]
    return f"{word(found)} ({', '.join(keys) or found['refused'] or 'nothing found'})"


def main() -> None:
    import torch
    from synthmorph_torch.loader import load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="where registrations and findings are kept")
    parser.add_argument("--only", choices=("tuning", "evaluation"), help="one of the lists; nothing is written then")
    parser.add_argument("--backwards", action="store_true", help="start at the end, to share the work with another run")
    parser.add_argument("--out", type=Path, help="write the tables here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = functools.cache(lambda: load_model("compact", device="cpu"))
    groups = [options.only] if options.only else ["tuning", "evaluation"]
    everything = [one for group in groups for one in findings(group, options.cache, model, options.backwards)]
    if options.only:
        for one in everything:
            print(one["kind"], one["name"], word(one), one["refused"],
                  {k: round(v, 3) for k, v in one["checks"].items() if v is not None})
        return
    text = to_markdown(everything)
    print(text)
    if options.out:
        options.out.write_text(f"# Does the verdict tell ruined registrations from good ones?\n\nWritten by `python "
                               f"benchmarks/verdict.py`, which says what is measured. {kept.machine()}\n\n{text}")


if __name__ == "__main__":
    main()
