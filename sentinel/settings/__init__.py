"""Settings: one frozen object, made once by `load` and handed down as an argument."""

from sentinel.settings.dataset import BenignSource, Dataset, Mix, Publication
from sentinel.settings.evaluation import Evaluation, EvaluationSource, Judge
from sentinel.settings.gate import Gate
from sentinel.settings.load import DEFAULT_FILE, Loaded, ServiceManager, load, service_manager
from sentinel.settings.model import Guard, PolicySettings, Reprompt, ServedModel
from sentinel.settings.root import Settings
from sentinel.settings.service import (
    Adapters,
    Api,
    Daemon,
    Database,
    Findings,
    Logging,
    MetricsServer,
    PromotionSettings,
    Retention,
    Route,
)
from sentinel.settings.stream import Consumer, Kafka, KafkaSecurity
from sentinel.settings.training import Training, Triggers

__all__ = [
    "DEFAULT_FILE",
    "Adapters",
    "Api",
    "BenignSource",
    "Consumer",
    "Daemon",
    "Database",
    "Dataset",
    "Evaluation",
    "EvaluationSource",
    "Findings",
    "Gate",
    "Guard",
    "Judge",
    "Kafka",
    "KafkaSecurity",
    "Loaded",
    "Logging",
    "MetricsServer",
    "Mix",
    "PolicySettings",
    "PromotionSettings",
    "Publication",
    "Reprompt",
    "Retention",
    "Route",
    "ServedModel",
    "ServiceManager",
    "Settings",
    "Training",
    "Triggers",
    "load",
    "service_manager",
]
