"""DLRM in the catalog. Standard library only: the engine reads this file."""

from __future__ import annotations

from models.api import Goal, Metric, ModelSpec, Worker
from models.dlrm.cost import row_cost
from models.dlrm.settings import SETTINGS

_STOCK = {
    "embedding_size": 16, "bottom_widths": "512-256-64", "top_widths": "512-256",
    "batch_size": 128, "dense_optimizer": "sgd", "table_optimizer": "sgd",
    "learning_rate": 0.1, "table_learning_rate": 0.1, "fused_tables": False,
    "precision": "fp32", "min_count": 1,
}  # fmt: skip

# The MLPerf reference of Criteo 1TB: v0.7/v1 training, 2,368,897 numbers in its MLPs.
_TERABYTE = {
    **_STOCK, "embedding_size": 128, "bottom_widths": "512-256", "top_widths": "1024-1024-512-256",
    "batch_size": 2048, "learning_rate": 1.0, "table_learning_rate": 1.0,
}  # fmt: skip

_OPTIMIZED = {
    "embedding_size": 16, "bottom_widths": "64", "top_widths": "64-32",
    "batch_size": 1024, "dense_optimizer": "adam", "table_optimizer": "rowwise_adagrad",
    "learning_rate": 0.004, "table_learning_rate": 0.05, "first_order_rate": 0.08,
    "first_order_start": 3.0, "average": 0.97, "warmup": 0.02, "decay": 0.3,
    "fused_tables": True, "fused_head": True, "precision": "auto",
    "evals_per_epoch": 4, "patience": 4, "min_count": 2, "min_steps": 32, "keep_memory": True,
    "prefetch": True,
}  # fmt: skip

SPEC = ModelSpec(
    name="dlrm",
    title="DLRM",
    summary="click prediction from numeric columns and ids: embeddings, dot interaction, two MLPs",
    task="binary classification of table rows",
    paper="Naumov et al. 2019, Deep Learning Recommendation Model, arXiv 1906.00091",
    formats=("criteo", "table"),
    settings=SETTINGS,
    row_cost=row_cost,
    steps_for_tails={"optimized": (400, 512)},
    cost={"generate": 10, "etl": 3, "train": 150, "train/optimized": 20, "train/tiny": 20,
          "train/terabyte": 250,
          "evaluate": 1, "optimize": 2},
    traffic={"": 420, "tiny": 270, "stock": 15_500},  # measured with 1,024, 256 and 128 rows a rank
    profiles={
        "optimized": _OPTIMIZED,
        "stock": _STOCK,
        "tiny": {**_OPTIMIZED, "embedding_size": 4, "bottom_widths": "16", "top_widths": "16",
                 "batch_size": 256},
        "terabyte": _TERABYTE,
    },
    metrics=(
        Metric(name="auc", goal=Goal.MAXIMIZE, help="area under the ROC curve"),
        Metric(name="logloss", goal=Goal.MINIMIZE, help="mean binary cross-entropy", unit="nats"),
    ),
    workers={
        "generate": Worker(module="models.dlrm.generator", environment="etl"),
        "profile": Worker(module="models.recdp.profile", environment="etl"),
        "check": Worker(module="models.recdp.check", environment="etl"),
        "etl": Worker(module="models.dlrm.etl", environment="etl", settings=("min_count",)),
        "train": Worker(module="models.train", environment="torch", ranks=True),
        "roofline": Worker(module="models.roofline", environment="torch"),
        "evaluate": Worker(module="models.evaluate", environment="torch"),
        "optimize": Worker(module="models.inference.export", environment="torch"),
        "predict": Worker(module="models.inference.predict", environment="torch"),
    },
)  # fmt: skip
