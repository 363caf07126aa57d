"""Transfer learning with convolutional networks inside scikit-learn."""

from sktl._backbones import layer_names, list_backbones
from sktl._classifier import FineTunedCNNClassifier
from sktl._comparison import TransferComparison, compare_transfer
from sktl._displays import TimeToScoreDisplay, TransferComparisonDisplay
from sktl._extractor import PretrainedFeatureExtractor
from sktl._history_display import TrainingHistoryDisplay
from sktl._images import check_images
from sktl._probe_display import LayerProbeDisplay
from sktl._probing import LayerProbe, probe_layers
from sktl._ranking import BackboneRanking, rank_backbones
from sktl._store import cache_info, clear_cache, prune_cache

__version__ = "0.1.0"

__all__ = [
    "BackboneRanking",
    "FineTunedCNNClassifier",
    "LayerProbe",
    "LayerProbeDisplay",
    "PretrainedFeatureExtractor",
    "TimeToScoreDisplay",
    "TrainingHistoryDisplay",
    "TransferComparison",
    "TransferComparisonDisplay",
    "cache_info",
    "check_images",
    "clear_cache",
    "compare_transfer",
    "layer_names",
    "list_backbones",
    "probe_layers",
    "prune_cache",
    "rank_backbones",
]
