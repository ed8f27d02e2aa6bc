"""How heads are read out of the statistics on this device, and where the two numbers that decide it come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.config import LearnSettings
from edge.errors import CorruptionError
from edge.heads import Background, DetectionHead, fit_detection
from edge.journal import Journal
from edge.journal_reader import JournalReader
from edge.manifest import DetectionDefaults
from edge.ridge_selection import CalibrationRecord
from edge.space import FeatureSpace
from edge.statistics import SufficientStatistics

if TYPE_CHECKING:
    from edge.recursive import RecursiveHead

CALIBRATION = "calibration/"


@dataclass(frozen=True)
class Readout:
    """ridge: isotropic windows. prior_weight: of the bundle's prior statistics. Both powers of two."""

    ridge: float = 1.0
    prior_weight: float = 1.0

    def background(self, ignored: SufficientStatistics, prior: SufficientStatistics | None) -> Background:
        """Everything else: the prior, and what the owner told the device to ignore."""
        return Background.from_statistics(prior, self.prior_weight, ignored, self.ridge, ignored.space)

    def fitted(
        self, taught: SufficientStatistics, ignored: SufficientStatistics, prior: SufficientStatistics | None
    ) -> DetectionHead:
        """The detector solved from the statistics."""
        return fit_detection(taught, self.background(ignored, prior), ridge=self.ridge)

    def recursive(
        self, taught: SufficientStatistics, ignored: SufficientStatistics, prior: SufficientStatistics | None
    ) -> RecursiveHead:
        """The same detector, carried along window by window from here on."""
        from edge.recursive import RecursiveHead

        return RecursiveHead(taught, self.background(ignored, prior), ridge=self.ridge)


def readout_of(
    detection: DetectionDefaults, owner: LearnSettings, journal: JournalReader, space: FeatureSpace
) -> Readout:
    """The owner's word before the calibration record, that before the bundle's, that before our own."""
    default = Readout()
    ridges = (owner.ridge, _kept_ridge(journal, space), detection.ridge, default.ridge)
    weights = (owner.prior_weight, detection.prior_weight, default.prior_weight)
    return Readout(
        ridge=next(float(ridge) for ridge in ridges if ridge is not None),
        prior_weight=next(float(weight) for weight in weights if weight is not None),
    )


def keep_calibration(journal: Journal, space: FeatureSpace, record: CalibrationRecord) -> None:
    """Keep what the idle calibration chose, for the next start and for every reading command."""
    journal.set_kv(CALIBRATION + space.sha256, record.to_dict())


def _kept_ridge(journal: JournalReader, space: FeatureSpace) -> float | None:
    """The ridge of the calibration record; None without one, or when it cannot be read (it can be chosen again)."""
    kept = journal.get_kv(CALIBRATION + space.sha256)
    try:
        return None if kept is None else CalibrationRecord.from_dict(kept).ridge
    except CorruptionError:
        return None
