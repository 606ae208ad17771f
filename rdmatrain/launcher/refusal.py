"""Why a job is not started."""

from rdmatrain.errors import SettingError


class RefusalError(SettingError):
    """Nothing was started.

    Attributes:
        exit_code: the launcher's, of :mod:`rdmatrain.launcher.exit_codes`.

    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
