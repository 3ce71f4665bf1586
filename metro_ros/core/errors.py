"""The one exception family of metro_ros: what went wrong, what was expected, what came, and what to do."""


class MetroError(Exception):
    """An error a user can act on. ``str()`` is one line: ``what: expected …, got …. remedy``.

    what: the sentence that names the failure. expected, got: the two sides of a failed check; anything ``str`` takes.
    remedy: what the user can do about it.
    """

    def __init__(
        self, what: str, *, expected: object | None = None, got: object | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.got = got
        self.remedy = remedy

    def __str__(self) -> str:
        sides = []
        if self.expected is not None:
            sides.append(f"expected {self.expected}")
        if self.got is not None:
            sides.append(f"got {self.got}")
        text = self.what + (": " + ", ".join(sides) if sides else "")
        if self.remedy:
            text += f". {self.remedy[0].upper()}{self.remedy[1:]}"
        return " ".join(text.split())


class BundleError(MetroError):
    """A model bundle is missing, damaged, or does not say what it should."""


class ImageError(MetroError):
    """An image has the wrong type, shape or size."""


class CameraError(MetroError):
    """A camera calibration is impossible, incomplete, or belongs to another image size."""


class EngineError(MetroError):
    """An inference engine is missing, cannot do what was asked, or returned nonsense."""


class ConfigError(MetroError):
    """A setting is outside of its range."""


class SourceError(MetroError):
    """A file, folder, clip or device cannot be read."""


def one_line(error: object) -> str:
    """What another library's exception says, for the end of a line in the log."""
    return " ".join(str(error).split())
