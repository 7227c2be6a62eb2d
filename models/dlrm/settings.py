"""DLRM's settings. Standard library only: the engine reads this file."""

from __future__ import annotations

from models.settings import Kind, Setting

SETTINGS: tuple[Setting, ...] = (
    Setting(name="embedding_size", kind=Kind.INT, default=16, low=2, high=256, tunable=True,
            help="width d of every embedding vector"),
    Setting(name="bottom_widths", kind=Kind.WIDTHS, default=(512, 256, 64), low=1, high=8192,
            help="hidden widths of the bottom MLP, between the numeric inputs and d"),
    Setting(name="top_widths", kind=Kind.WIDTHS, default=(512, 256), low=1, high=8192,
            help="hidden widths of the top MLP, between the interaction and the one output"),
    Setting(name="batch_size", kind=Kind.INT, default=128, low=1, high=1 << 20, tunable=True,
            unit="rows", help="rows of one global step, over all ranks"),
    Setting(name="dense_optimizer", kind=Kind.CHOICE, default="sgd", choices=("sgd", "adam"),
            help="optimizer of the two MLPs"),
    Setting(name="table_optimizer", kind=Kind.CHOICE, default="sgd",
            choices=("sgd", "rowwise_adagrad"), help="optimizer of the embedding rows"),
    Setting(name="learning_rate", kind=Kind.FLOAT, default=0.1, low=1e-6, high=100.0, log=True,
            tunable=True, help="rate of the MLPs"),
    Setting(name="table_learning_rate", kind=Kind.FLOAT, default=0.1, low=1e-6, high=100.0,
            log=True, tunable=True, help="rate of the embedding rows"),
    Setting(name="warmup", kind=Kind.FLOAT, default=0.0, low=0.0, high=1.0, unit="epochs",
            help="linear warm-up of both rates over this part of the first epoch"),
    Setting(name="decay", kind=Kind.FLOAT, default=0.0, low=0.0, high=1.0,
            help="part of the training, at its end, over which both rates fall to 0 linearly"),
    Setting(name="fused_tables", kind=Kind.BOOL, default=False,
            help="one storage for all tables and one lookup, instead of 26 EmbeddingBags"),
    Setting(name="precision", kind=Kind.CHOICE, default="fp32", choices=("auto", "fp32", "bf16"),
            help="arithmetic of the MLPs; auto takes bf16 where the CPU has AMX or AVX512-BF16"),
    Setting(name="epochs", kind=Kind.INT, default=1, low=1, high=1000, unit="epochs",
            help="passes over the training rows, at most"),
    Setting(name="evals_per_epoch", kind=Kind.INT, default=1, low=1, high=1000,
            help="how often the validation rows are scored in an epoch"),
    Setting(name="patience", kind=Kind.INT, default=3, low=1, high=1000,
            help="validations without a better metric before training ends early"),
    Setting(name="min_count", kind=Kind.INT, default=1, low=1, high=1 << 30, tunable=True,
            unit="rows", help="ids seen in fewer training rows share id 0 (ETL)"),
)  # fmt: skip
