"""A model that is ready to run, and the report of its self-test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from edge_agent.core.engine_selection import ONE_AT_A_TIME, BatchPolicy
from edge_agent.engines.base import Engine
from edge_agent.engines.content_check import ContentChecker
from edge_agent.engines.golden import GoldenResult, GoldenSource
from hilum.manifest import EngineVariant, Manifest

_PROBLEMS_IN_SUMMARY: Final = 3


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """The result of running a bundle's golden cases on this machine.

    The test ends at the first part that fails: `content_check` is empty if the detector failed.
    `error` says why a part gave no result at all.
    """

    engine: str = ""
    detector: tuple[GoldenResult, ...] = ()
    content_check: tuple[GoldenResult, ...] = ()
    error: str = ""

    @property
    def passed(self) -> bool:
        """Return True if the model may answer for patients on this machine."""
        return not self.error and all(
            check.passed for check in (*self.detector, *self.content_check)
        )

    @property
    def problem(self) -> str:
        """Return the first problems as one sentence; empty if the test passed."""
        if self.error:
            return self.error
        if problems := _summarize(self.detector):
            return (
                f"{self.engine} does not answer the bundle's golden cases as recorded ({problems})."
            )
        if problems := _summarize(self.content_check):
            return (
                "The content check refuses golden cases of its own bundle, "
                f"which all show a chest ({problems})."
            )
        return ""


def _summarize(results: Iterable[GoldenResult]) -> str:
    problems = [f"{result.case}: {problem}" for result in results for problem in result.problems]
    return "; ".join(problems[:_PROBLEMS_IN_SUMMARY])


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A bundle's manifest and digest with the engine that runs one of its variants.

    Attributes:
        manifest, digest: the bundle's.
        variant: the engine variant that `engine` runs.
        engine: the compiled model.
        reason: why this variant was selected, for people.
        batch_policy: how images are given to the engine.
        content_checker: the bundle's content check, if it has one.
        golden: the bundle's golden cases, which `loader.self_test` runs. None for an engine of
            tests, whose self-test passes.
    """

    manifest: Manifest
    digest: str
    variant: EngineVariant
    engine: Engine
    reason: str
    batch_policy: BatchPolicy = ONE_AT_A_TIME
    content_checker: ContentChecker | None = None
    golden: GoldenSource | None = None

    def thresholds(self, override: float | None = None) -> list[float]:
        """Return the score threshold of each class, in the manifest's order.

        These are the variant's operating points, or `override` for every class.
        """
        points = self.variant.operating_points
        return [points[slug] if override is None else override for slug in self.manifest.findings]

    def close(self) -> None:
        """Free the networks."""
        if self.content_checker is not None:
            self.content_checker.close()
        self.engine.close()
