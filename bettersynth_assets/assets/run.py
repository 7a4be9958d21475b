"""How an asset brings its shards up to date. In: partition keys. Out: materializations, metadata and check results.

The work itself is the stage's; here it is started, reported and, where it fails, told in one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg

from bettersynth_assets.assets.cards import Card
from bettersynth_assets.checks.rules import Evidence
from bettersynth_assets.errors import UserError
from bettersynth_assets.records.store import WHOLE, Manifest
from bettersynth_assets.reports.metadata import Metadata, describe
from bettersynth_assets.reports.summary import write_summary
from bettersynth_assets.resources.gpu import GpuResource
from bettersynth_assets.resources.lease import chosen_devices, lease, visible_devices
from bettersynth_assets.resources.settings import RunSettings
from bettersynth_assets.stages.engine import Pipeline, Result, Stage, Work
from toolkit.process import ChildFailedError


class Workshop:
    """One launch's pipeline, and what it has told Dagster so far."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        stages: tuple[Stage, ...],
        cards: tuple[Card, ...],
        settings: RunSettings,
        gpu: GpuResource,
    ) -> None:
        self.context = context
        self.cards = {card.name: card for card in cards}
        leased = [leasing(stage) if self.cards[stage.name].uses_models else stage for stage in stages]
        self.pipeline = Pipeline(leased, gpu.apply(settings.load()), log=context.log.info)
        self._told = 0

    def ensure(self, name: str, shard: str) -> Manifest:
        """Bring a shard up to date; whatever upstream had to be made for it is reported as those assets' own."""
        try:
            manifest = self.pipeline.ensure(name, shard)
        finally:
            for made in self.pipeline.made[self._told :]:
                if made.stage != name:
                    self.context.log.info(f"{made.stage} {made.shard} was missing or stale and has been made first")
                    self.tell(made, self.metadata(made))
            self._told = len(self.pipeline.made)
        return manifest

    def tell(self, manifest: Manifest, metadata: Metadata) -> None:
        """Log a shard's materialization now, so that it counts even if this run ends badly."""
        if manifest.lost and self.cards[manifest.stage].columns is not None:
            raise dg.Failure(f"{manifest.stage} {manifest.shard}: {manifest.lost} rows are in no table")
        partition = None if manifest.shard == WHOLE else manifest.shard
        self.context.log_event(dg.AssetMaterialization(manifest.stage, metadata=metadata, partition=partition))

    def metadata(self, manifest: Manifest) -> Metadata:
        rows = self.cards[manifest.stage].columns is not None
        return describe(manifest, self.pipeline.settings, rows=rows)

    def checks(self, name: str) -> list[dg.AssetCheckResult]:
        """Judge what is on disk of one set."""
        card = self.cards[name]
        evidence = Evidence(
            manifests=self.pipeline.current(name),
            upstream={
                source: self.pipeline.current(source)
                for source in self.pipeline.stages[name].inputs
                if self.cards[source].columns is not None
            },
            settings=self.pipeline.settings,
            columns=card.columns,
        )
        verdicts = {rule.name: rule.judge(evidence) for rule in card.rules}
        return [
            dg.AssetCheckResult(
                check_name=check,
                passed=verdict.passed,
                severity=dg.AssetCheckSeverity.ERROR,
                description=verdict.words,
                metadata=verdict.numbers,
            )
            for check, verdict in verdicts.items()
        ]


def run_shards(shop: Workshop, name: str) -> dg.MaterializeResult:
    """Every selected shard; one that fails does not stop the others.

    Raises:
        UserError: at once, because settings and files are the same for every shard.
        dagster.Failure: naming the failed shards after the others are done; the next run does only those.
    """
    context, failed = shop.context, {}
    for shard in context.partition_keys:
        try:
            manifest = shop.ensure(name, shard)
        except UserError:
            raise
        except Exception as error:
            context.log.exception(f"{name} {shard} failed; going on with the other shards")
            failed[shard] = f"{type(error).__name__}: {error}"
            continue
        metadata = shop.metadata(manifest)
        shop.tell(manifest, metadata)
        # Dagster writes its own event at the end of the step, which without this would show nothing.
        context.add_asset_metadata(metadata, partition_key=shard)
    if failed:
        raise dg.Failure(
            f"{len(failed)} of {len(context.partition_keys)} shards of {name} failed: "
            + "; ".join(f"{shard}: {words}" for shard, words in failed.items())
            + ". The others are done; materialize again and only these are redone.",
            allow_retries=False,
        )
    return dg.MaterializeResult(check_results=shop.checks(name))


def run_whole(shop: Workshop, name: str) -> dg.MaterializeResult:
    """A set that is not sharded."""
    manifest = shop.ensure(name, WHOLE)
    if name == "eval_results":
        write_summary(shop.pipeline.settings)
    return dg.MaterializeResult(
        metadata=shop.metadata(manifest),
        check_results=shop.checks(name),
        data_version=dg.DataVersion(manifest.digest[:16]),
    )


@contextmanager
def plainly() -> Iterator[None]:
    """Turn an error that says all that there is to say (how to mend it, or a child's last words) into a failure."""
    try:
        yield
    except (UserError, ChildFailedError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def leasing(stage: Stage) -> Stage:
    """The same stage, which holds its GPUs while it runs, whichever asset started it."""

    def run(work: Work) -> Result:
        gpu = work.settings.profile.gpu
        devices = chosen_devices(gpu, visible_devices())
        with lease(devices, work.log):
            # Under the lease's mask the devices are counted anew from 0.
            inside = gpu.model_copy(update={"devices": "auto" if devices else "cpu"})
            profile = work.settings.profile.model_copy(update={"gpu": inside})
            return stage.run(replace(work, settings=replace(work.settings, profile=profile)))

    return replace(stage, run=run)
