"""Transfer learning with convolutional networks inside scikit-learn."""

from sktl._classifier import FineTunedCNNClassifier
from sktl._comparison.compare import compare_transfer
from sktl._comparison.result import TransferComparison
from sktl._display.comparison import TransferComparisonDisplay
from sktl._display.history import TrainingHistoryDisplay
from sktl._display.layer_probe import LayerProbeDisplay
from sktl._display.predictions import PredictionsDisplay
from sktl._display.time_to_score import TimeToScoreDisplay
from sktl._extractor import PretrainedFeatureExtractor
from sktl._features.cache import cache_info, clear_cache, prune_cache
from sktl._global_scaler import GlobalScaler
from sktl._images.forms import check_images
from sktl._networks.backbones import layer_names, list_backbones
from sktl._networks.preprocessing import Preprocessing
from sktl._raw_pixels import RawPixels
from sktl._regressor import FineTunedCNNRegressor
from sktl._selection.probing import LayerProbe, probe_layers
from sktl._selection.ranking import BackboneRanking, rank_backbones

__version__ = "0.1.0"

__all__ = [
    "BackboneRanking",
    "FineTunedCNNClassifier",
    "FineTunedCNNRegressor",
    "GlobalScaler",
    "LayerProbe",
    "LayerProbeDisplay",
    "PredictionsDisplay",
    "Preprocessing",
    "PretrainedFeatureExtractor",
    "RawPixels",
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

# Where users find them, and where pickles look for them, whatever file they are in.
for _name in __all__:
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
del _name
