"""Metrics of maps: localisation, faithfulness and robustness. Each metric is a function of maps, not of a method."""

from camscope.metrics import (
    additivity,
    comparison,
    complexity,
    faithfulness,
    localisation,
    overlap,
    road,
    robustness,
    sanity,
)
from camscope.metrics.comparison import spearman, ssim
from camscope.metrics.edits import SUBSTRATES
from camscope.metrics.faithfulness import Curve, Kept, deletion_curve, insertion_curve, kept
from camscope.metrics.localisation import chance
from camscope.metrics.overlap import THRESHOLDS, Box, Tuned, boxes_of, mask_boxes, otsu, tuned
from camscope.metrics.registry import FACTS, KINDS, METRICS, Explain, Facts, Metric, Score, kind, metric
from camscope.metrics.road import RoadCurves, road_curves
from camscope.metrics.robustness import adcc_of
from camscope.metrics.sanity import SANE, Randomisation, cascade, independent, passes, randomised

__all__ = [
    "FACTS",
    "KINDS",
    "METRICS",
    "SANE",
    "SUBSTRATES",
    "THRESHOLDS",
    "Box",
    "Curve",
    "Explain",
    "Facts",
    "Kept",
    "Metric",
    "Randomisation",
    "RoadCurves",
    "Score",
    "Tuned",
    "adcc_of",
    "additivity",
    "boxes_of",
    "cascade",
    "chance",
    "comparison",
    "complexity",
    "deletion_curve",
    "faithfulness",
    "independent",
    "insertion_curve",
    "kept",
    "kind",
    "localisation",
    "mask_boxes",
    "metric",
    "otsu",
    "overlap",
    "passes",
    "randomised",
    "road",
    "road_curves",
    "robustness",
    "sanity",
    "spearman",
    "ssim",
    "tuned",
]
