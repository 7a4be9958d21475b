"""Brings shards up to date. In: a stage's name and a shard. Out: its manifest.

``Pipeline.ensure`` brings the inputs up to date, hashes version, settings, libraries and the inputs' digests into a
key, and runs the stage's function only if the current manifest has another key. Keys contain hashes of the inputs'
*contents*: if a new row shifts the mean score but a shard's filtered rows stay the same, its captions are not computed
again. A shard is up to date only if its files have the sizes and hashes in its manifest; a damaged shard is logged and
rebuilt.

Inputs are brought up to date set by set, in the order of the graph. No set is read that fails a blocking rule
(``gate``). No stage runs before its preflight check has passed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine import reuse
from bettersynth_assets.engine.gate import judge, refuse_failed
from bettersynth_assets.engine.integrity import DamagedFileError, seal
from bettersynth_assets.engine.libraries import installed_versions, key_versions
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.rules import Verdict
from bettersynth_assets.engine.stage import Inputs, Log, Stage, Work, no_log
from bettersynth_assets.engine.store import WHOLE, Manifest, Slot, write_table
from bettersynth_assets.errors import UserError
from bettersynth_assets.errors.storage import naming_the_path
from bettersynth_assets.records.input_files import Versions, refuse_changed
from bettersynth_assets.scheduler.usage import measured
from toolkit.file_errors import EnvironmentFault
from toolkit.files import digest_of
from toolkit.image_decoding import strict_decoding


class Pipeline:
    """Runs all stages of one ``ResolvedRun``. Skips shards that are up to date."""

    def __init__(
        self,
        stages: Iterable[Stage],
        run: ResolvedRun,
        *,
        log: Log = print,
        on_materialized: Callable[[Manifest], None] | None = None,
        on_judged: Callable[[str, dict[str, Verdict]], None] | None = None,
    ) -> None:
        limits = run.settings.profile.limits
        strict_decoding.raise_ceilings(pixels=limits.max_pixels, metadata_bytes=limits.max_metadata_bytes)
        self.stages = {stage.name: stage for stage in stages}
        self.run = run
        self.log = log
        self.on_materialized = on_materialized
        """Called with each manifest as soon as it is committed, even if the call that built it fails later."""
        self.on_judged = on_judged
        """Called with the verdicts on each set that another stage reads, before a failed verdict stops the run."""
        self.materialized: list[Manifest] = []
        """Manifests of the shards that were built, here or by workers, in order; not those found up to date."""
        self._current: dict[str, dict[str, Manifest]] = {name: {} for name in self.stages}
        """Shards that are up to date, by set."""
        self._admitted: dict[str, int] = {}
        """Sets that passed their blocking rules, with the number of shards that were checked."""
        self._checked_by_parent: set[str] = set()
        """Sets whose shards came from the parent process, which has checked them."""
        self.versions: Versions | None = None
        """Versions of the user's files when this pipeline first read them."""

    @property
    def settings(self) -> Settings:
        return self.run.settings

    def shards(self, name: str) -> list[str]:
        return self.settings.profile.shard_names() if self.stages[name].sharded else [WHOLE]

    def slot(self, name: str, shard: str) -> Slot:
        return Slot(root=self.settings.root_of(self.stages[name].scope), stage=name, shard=shard)

    def current(self, name: str) -> list[Manifest]:
        """Return the manifests on disk, up to date or not; omit shards without a manifest."""
        manifests = (self.slot(name, shard).read() for shard in self.shards(name))
        return [manifest for manifest in manifests if manifest is not None]

    def ensure_all(self, name: str) -> list[Manifest]:
        """Bring every shard of a stage up to date; return the manifests in order."""
        self.ensure_inputs(name, self.shards(name))
        return [self.ensure(name, shard) for shard in self.shards(name)]

    def ensure(self, name: str, shard: str = WHOLE) -> Manifest:
        """Bring one shard of a stage and its inputs up to date.

        Returns:
            The manifest of the shard, whether built now or found up to date.

        Raises:
            UserError: the stage's function refuses the user's files or settings.
            GateError: an input fails a blocking rule.
        """
        if shard in self._current[name]:
            return self._current[name][shard]
        self.refuse_changed_files()
        stage = self.stages[name]
        self.ensure_inputs(name, [shard])
        inputs = {
            source: [self._current[source][part] for part in self.needed(name, shard, source)]
            for source in self.sources(name)
        }
        slot = self.slot(name, shard)
        # Check without a lock first: a read-only data root that is up to date can then be used.
        manifest, built = self._usable(slot, self._key(stage, shard, inputs)), None
        if manifest is None:
            self.preflight([name])
            with slot.locked(), naming_the_path(slot.folder):
                key = self._key(stage, shard, inputs)
                manifest = self._usable(slot, key, log=self.log)  # another run may have held the lock
                if manifest is None:
                    try:
                        manifest = built = self._reused(stage, slot, key) or self._build(stage, slot, key, inputs)
                    except UserError:
                        slot.abandon(key)
                        raise
        self._current[name][shard] = manifest
        if built is not None:
            self.record(built)
        return manifest

    def preflight(self, names: Iterable[str]) -> None:
        """Run the preflight checks of stages, unless this run has passed them; log their warnings.

        Raises:
            UserError: a stage cannot run with this recipe or with the user's files.
        """
        for check in dict.fromkeys(self.stages[name].preflight for name in names):
            if check not in self.run.passed:
                for warning in check(self.run):
                    self.log(warning)
                self.run.passed.add(check)

    def refuse_changed_files(self) -> None:
        """Check that the user's files have not changed since this pipeline first read them.

        Raises:
            SeedError: a file has changed; the message names it.
        """
        functions = dict.fromkeys(stage.files for stage in self.stages.values())  # several stages share a function
        now = {name: version for files in functions for name, version in files(self.run).items()}
        if self.versions is None:
            self.versions = now
        refuse_changed(self.versions, now)

    def ensure_inputs(self, name: str, shards: Sequence[str]) -> None:
        """Bring the input sets of shards up to date, one set after another, and check each set.

        Raises:
            UserError: see ``ensure``.
        """
        for source in self.sources(name):
            wanted = list(
                dict.fromkeys(source_shard for shard in shards for source_shard in self.needed(name, shard, source))
            )
            missing = [source_shard for source_shard in wanted if source_shard not in self._current[source]]
            if missing:
                self.ensure_inputs(source, missing)
                for source_shard in missing:
                    self.ensure(source, source_shard)
            self.admit(source)

    def admit(self, name: str) -> None:
        """Check a set before other stages read it; check it again only if more of its shards are up to date.

        Raises:
            GateError: the set fails a blocking rule.
        """
        if name in self._checked_by_parent or not self.stages[name].rules:
            return
        if self._admitted.get(name) == len(self._current[name]):
            return
        verdicts = judge(self, name)
        if self.on_judged is not None:
            self.on_judged(name, verdicts)
        refuse_failed(self.stages[name], verdicts)
        self._admitted[name] = len(self._current[name])

    def up_to_date(self, name: str) -> list[Manifest]:
        """Return the manifests of a set's shards that are up to date, in order; builds nothing."""
        manifests = (self.up_to_date_shard(name, shard) for shard in self.shards(name))
        return [manifest for manifest in manifests if manifest is not None]

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the names of the stages whose output a stage reads under these settings."""
        stage = self.stages[name]
        return (*stage.inputs, *stage.additional_inputs(self.run))

    def needed(self, name: str, shard: str, source: str) -> list[str]:
        """Return the shards of ``source`` that one shard of ``name`` is built from."""
        together = self.stages[name].sharded and self.stages[source].sharded
        return [shard] if together else self.shards(source)

    def up_to_date_shard(self, name: str, shard: str = WHOLE) -> Manifest | None:
        """Return a shard's manifest if the shard and all its inputs are up to date, else None; builds nothing."""
        if shard in self._current[name]:
            return self._current[name][shard]
        inputs: dict[str, list[Manifest]] = {}
        for source in self.sources(name):
            inputs[source] = []
            for source_shard in self.needed(name, shard, source):
                if (source_manifest := self.up_to_date_shard(source, source_shard)) is None:
                    return None
                inputs[source].append(source_manifest)
        try:
            key = self._key(self.stages[name], shard, inputs)
        except EnvironmentFault:  # reported when the shard is brought up to date
            return None
        manifest = self._usable(self.slot(name, shard), key)
        if manifest is not None:
            self._current[name][shard] = manifest
        return manifest

    def _usable(self, slot: Slot, key: str, *, log: Log = no_log) -> Manifest | None:
        """Return the committed version if it has the given key and intact files, else None.

        Args:
            slot: the shard's slot; if the version is usable, repairs its link and removes leftovers of killed runs.
            key: the key that the version must have.
            log: called with a description of damage.
        """
        try:
            manifest = slot.committed()
        except DamagedFileError as error:
            log(f"{slot.stage} {slot.shard} is rebuilt: {error}")
            return None
        if manifest is None or manifest.key != key:
            return None
        if faults := manifest.faults():
            log(f"{slot.stage} {slot.shard} is rebuilt: {'; '.join(faults.values())}")
            return None
        for line in slot.tidy(manifest):
            self.log(line)
        return manifest

    def _reused(self, stage: Stage, slot: Slot, key: str) -> Manifest | None:
        """Copy the version with this key that another recipe has built; None if there is none."""
        roots = sorted(self.settings.profile_root.glob("*/")) if stage.scope == "recipe" else []
        version = reuse.find(slot, key, roots)
        if version is None:
            return None
        self.log(f"{slot.stage} {slot.shard}: copied from {version.path.parent}, which has the same key")
        return reuse.copy(version, slot)

    def trust(self, manifest: Manifest) -> None:
        """Accept a shard as up to date and its set as checked, because the parent process has verified both."""
        self._current[manifest.stage][manifest.shard] = manifest
        self._checked_by_parent.add(manifest.stage)

    def record(self, manifest: Manifest) -> None:
        """Record a shard that was built in this process or by a worker."""
        self._current[manifest.stage][manifest.shard] = manifest
        self.materialized.append(manifest)
        if self.on_materialized is not None:
            self.on_materialized(manifest)

    def _key(self, stage: Stage, shard: str, inputs: Inputs) -> str:
        return digest_of(
            stage.name,
            stage.version,
            shard,
            stage.depends(self.run, shard, inputs),
            key_versions(stage.libraries),
            {
                source: [item.digest for item in items]
                for source, items in inputs.items()
                if source not in stage.by_value
            },
        )

    def _build(self, stage: Stage, slot: Slot, key: str, inputs: Inputs) -> Manifest:
        folder = slot.begin(key, resume=stage.resume)
        start = time.monotonic()
        work = Work(run=self.run, shard=slot.shard, folder=folder, inputs=inputs, log=self.log)
        with measured() as usage:
            result = stage.run(work)
        seconds = time.monotonic() - start
        row_tables = {"kept": result.kept, "rejects": result.rejects, "quarantine": result.quarantine}
        tables = {**{f"{name}.parquet": table for name, table in row_tables.items()}, **result.tables}
        for name, table in tables.items():
            write_table(folder / name, table)
        files = {name: seal(folder / name) for name in (*tables, *result.files, *result.other_files)}
        additional = (*result.tables, *result.files)
        manifest = Manifest(
            stage=stage.name,
            shard=slot.shard,
            key=key,
            rows_in=result.rows_in,
            kept=result.kept.num_rows,
            rejected=_counts(result.rejects, "operator"),
            quarantined=_counts(result.quarantine, "reason"),
            digest=digest_of(files["kept.parquet"]["sha256"], *(files[name]["sha256"] for name in additional)),
            files=files,
            memos=sorted(set(work.memos)),
            stats=result.stats,
            seconds=round(seconds, 3),
            inputs={source: [item.digest for item in items] for source, items in inputs.items()},
            libraries=installed_versions(stage.libraries),
            usage=usage,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if stage.files(self.run):  # other results are valid for their keys; do not discard hours of work
            self.refuse_changed_files()
        return slot.commit(manifest)


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    return dict(sorted(Counter(table.column(column).to_pylist()).items()))
