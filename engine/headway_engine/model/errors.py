"""Why model files cannot be used."""


class ModelFileError(ValueError):
    """A model file is missing, corrupt or of an unsupported kind; the message is one line that names file and cause."""
