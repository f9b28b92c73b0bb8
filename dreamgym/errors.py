"""Errors a user can act on: one sentence that names the field, file or line, and the remedy."""


class DreamgymError(Exception):
    """Base of every error that is the user's to mend; the CLI prints it as one line and exits with 2."""


class ConfigError(DreamgymError):
    """A field of the configuration is unknown, has the wrong type or an impossible value."""


class DataError(DreamgymError):
    """A file is missing, a line is broken, a column is wrong, or a data set is empty."""


class ModelError(DreamgymError):
    """A model or tokenizer cannot be loaded, or does not do what a run needs of it."""


class EnvError(DreamgymError):
    """An environment cannot be found, built, or fails too often in a row."""


class WeightSyncError(DreamgymError):
    """Engine and learner hold different weights: checksum, version or logprobs disagree."""


class EngineError(DreamgymError):
    """An inference engine died or did not answer before its deadline."""
