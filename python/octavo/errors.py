"""What octavo raises on purpose. Whoever talks to a person shows `str(error)` alone, without a traceback."""


class OctavoError(Exception):
    """Base of every error that octavo raises on purpose."""


class ModelError(OctavoError):
    """The model named by the user cannot be used: one line that says what is wrong and, where possible, what helps."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class TemplateError(OctavoError, ValueError):
    """A chat template cannot be read, or does not accept these messages: one line for the client."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class EngineDeadError(OctavoError):
    """The engine has ended, and with it every request that it had: make a new one."""

    def __init__(self) -> None:
        super().__init__("the engine has ended; what it printed says why")
