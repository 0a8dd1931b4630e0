"""Foreign writers: who else moves the limits of the engines, or the count of a fleet whose count is not theirs.

An engine's limits are foreign when they are none that this operator ever decided: not the spec's, not the ones in force,
none of the last changes. What an engine was started with is not foreign, which its first revision tells. A single foreign
write is put right like any drift; an engine whose limits somebody changes again and again is left to them, so that two
writers do not take turns.

The count is foreign when an autoscaler wrote it through the scale subresource in a mode that does not hand it over, or when
it has two owners in mode External: `metadata.managedFields` has both. Two writers that disagree own it by turns, so they
show only over time, as a count that goes back and forth in the history. In mode Auto the API server refuses every write of it, so
an autoscaler is found by its target.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from itertools import pairwise, takewhile

from headway_operator.api.v1alpha1 import LimitValues, LLMDeployment, ScalingMode
from headway_operator.core import names, pods, tuning
from headway_operator.core.observed import EngineSample, Observed
from headway_operator.core.plan import Json, LimitsPatch, Manifest

RECENT_S = 45.0  # a foreign write is remembered for so long
CONTESTED = 2  # so many foreign writes in that time are a rival, not a slip
FIRST_REVISION = 1  # of an engine that runs with its start's limits
TURNS = 4  # so many changes there and back between two counts ...
TURNS_S = 600.0  # ... within this time are two writers; an autoscaler waits longer before it goes back
HUMANS = ("kubectl",)  # `kubectl scale` is a person's own decision


def known_limits(fleet: LLMDeployment, *decided: LimitValues) -> tuple[LimitsPatch, ...]:
    """Every set of limits that the operator has asked for lately."""
    memory = fleet.status.tuning
    asked = [*decided]
    if memory is not None:
        asked += [memory.effective] if memory.effective is not None else []
        asked += [limits for change in memory.history for limits in (change.from_, change.to)]
    return tuple(dict.fromkeys(tuning.patch(limits) for limits in asked))


def sentences(observed: Observed, fleet: LLMDeployment, known: Collection[LimitsPatch]) -> tuple[str, ...]:
    """One sentence for each foreign writer that shows."""
    return (
        *_of_limits(observed, known),
        *of_replicas(observed.manifest, fleet.spec.scaling.mode),
        *_refused(observed.autoscalers),
        *_taking_turns(fleet, observed.now),
    )


def contested(observed: Observed, known: Collection[LimitsPatch]) -> frozenset[str]:
    """Pods whose limits somebody else keeps changing: writing ours would only make two writers take turns."""
    return frozenset(
        name
        for name, series in observed.samples.items()
        if len(_foreign(series, known, observed.monotonic_s)) >= CONTESTED
    )


def _foreign(series: Sequence[EngineSample], known: Collection[LimitsPatch], now_s: float) -> tuple[EngineSample, ...]:
    """The samples that show a new foreign set of limits."""
    if not series:
        return ()
    latest = series[-1]
    # Nearly every engine of a large fleet: its limits have been the same for as long as it is known.
    if latest.revision == series[0].revision and not _is_foreign(latest, known):
        return ()
    recent = [sample for sample in series if sample.taken_s >= now_s - RECENT_S]
    found = [sample for sample in recent[:1] if _is_foreign(sample, known)]
    found += [
        new
        for old, new in pairwise(recent)
        if (new.boot_id, new.revision) != (old.boot_id, old.revision) and _is_foreign(new, known)
    ]
    return tuple(found)


def _is_foreign(sample: EngineSample, known: Collection[LimitsPatch]) -> bool:
    if sample.revision <= FIRST_REVISION or sample.effective in known:
        return False
    return not any(sample.effective.agrees(limits) for limits in known)


def _of_limits(observed: Observed, known: Collection[LimitsPatch]) -> Iterator[str]:
    seen = {
        name: writes
        for name, series in observed.samples.items()
        if (writes := _foreign(series, known, observed.monotonic_s))
    }
    found = {pod.name: seen[pod.name] for pod in observed.pods if pod.name in seen and pods.live(pod)} if seen else {}
    if not found:
        return
    name = min(found)
    limits, more = found[name][-1].effective, len(found) - 1
    others = f" (and {more} more)" if more else ""
    yield (
        f"somebody else set the limits of pod {name}{others} to maxNumSeqs {limits.max_num_seqs}, maxNumBatchedTokens "
        f"{limits.max_num_batched_tokens} (times seen in {RECENT_S:.0f} s: {len(found[name])}): the operator never asked for these"
    )


def _refused(autoscalers: Collection[str]) -> Iterator[str]:
    if autoscalers:
        yield (
            f"HorizontalPodAutoscaler {names.few(autoscalers)} targets this fleet, but spec.scaling.mode is Auto: the API "
            "server refuses its writes"
        )


def _taking_turns(fleet: LLMDeployment, now: datetime) -> Iterator[str]:
    history = fleet.status.scaling.history if fleet.status.scaling is not None else ()
    recent = [change for change in history if (now - change.time).total_seconds() <= TURNS_S]
    if fleet.spec.scaling.mode is ScalingMode.AUTO or len(recent) < TURNS:
        return
    latest = recent[0]
    back = takewhile(lambda pair: (pair[0].from_, pair[0].to) == (pair[1].to, pair[1].from_), pairwise(recent))
    turns = 1 + sum(1 for _ in back)
    if turns >= TURNS:
        minutes = (now - recent[turns - 1].time).total_seconds() / 60
        yield (
            f"spec.replicas went back and forth between {latest.from_} and {latest.to}, {turns} times in {minutes:.0f} min: "
            "two writers take turns"
        )


def of_replicas(manifest: Manifest, mode: ScalingMode) -> Iterator[str]:
    """What the owners of spec.replicas say, as the API server keeps them."""
    writers = tuple(_writers_of_replicas(manifest))
    through_scale = [manager for manager, scale in writers if scale and not manager.startswith(HUMANS)]
    others = [manager for manager, scale in writers if not scale]
    if mode is not ScalingMode.EXTERNAL and through_scale:
        yield (
            f"{', '.join(through_scale)} writes spec.replicas through the scale subresource, but spec.scaling.mode is "
            f"{mode.value}"
        )
    if mode is ScalingMode.EXTERNAL and through_scale and others:
        yield (
            f"spec.replicas belongs to {', '.join(through_scale)} (scale subresource) and to {', '.join(others)} as well: "
            "leave it out of the manifest that is applied"
        )


def _writers_of_replicas(manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """Managers that own spec.replicas, and whether they wrote it through the scale subresource."""
    metadata = manifest.get("metadata")
    entries = metadata.get("managedFields") if isinstance(metadata, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and _owns_replicas(entry.get("fieldsV1")):
            yield str(entry.get("manager", "")), entry.get("subresource") == "scale"


def _owns_replicas(fields: Json) -> bool:
    spec = fields.get("f:spec") if isinstance(fields, dict) else None
    return isinstance(spec, dict) and "f:replicas" in spec
