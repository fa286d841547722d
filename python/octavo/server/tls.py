"""TLS of the listening socket: the certificate's files, and what clients must show."""

import logging
import os
import ssl

from octavo.config import ServerConfig
from octavo.errors import OctavoError

logger = logging.getLogger(__name__)


class TlsError(OctavoError):
    """The certificate cannot be used: one line for the user."""


class Tls:
    """The context for new connections; with --enable-ssl-refresh a new one when the files have changed."""

    def __init__(self, config: ServerConfig) -> None:
        """Raises TlsError."""
        self._config = config
        self._times = self._file_times()
        self._context = make_context(config)

    def context(self) -> ssl.SSLContext:
        if self._config.enable_ssl_refresh and (times := self._file_times()) != self._times:
            self._times = times
            try:
                self._context = make_context(self._config)
            except TlsError as error:
                logger.error("the old certificate stays: %s", error)
            else:
                logger.info("the certificate has been read again")
        return self._context

    def _file_times(self) -> list[float | None]:
        config = self._config
        return [modified(path) for path in (config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs) if path]


def modified(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def make_context(config: ServerConfig) -> ssl.SSLContext:
    """Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = " and ".join(path for path in (config.ssl_certfile, config.ssl_keyfile) if path)
    try:
        context.load_cert_chain(str(config.ssl_certfile), config.ssl_keyfile, password=refuse_password)
        files = config.ssl_ca_certs or ""
        if config.ssl_ca_certs is not None:
            context.load_verify_locations(config.ssl_ca_certs)
        files = config.ssl_ciphers or ""
        if config.ssl_ciphers is not None:
            context.set_ciphers(config.ssl_ciphers)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise TlsError(f"cannot use {files} for TLS: {reason}") from None
    context.verify_mode = ssl.VerifyMode(config.ssl_cert_reqs)
    return context


def refuse_password() -> str:
    """Without this, OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted; octavo takes no password")
