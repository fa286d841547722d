"""The way to a server: the engine process first, then what it waits for, then what only this process needs.

    spawn the engine ─▶ bind ─▶ find the model, plan ─▶ begin ─▶ import aiohttp, make tokenizer and template ─▶ app.py

Both processes spend most of their start with imports, each on a core of its own. What the engine waits for comes before
this process's own 0.1 s of imports.
"""

import gc
import logging
import resource
import signal
import time

from octavo.config import EngineConfig, ServerConfig
from octavo.engine.spawn import EngineProcess


def launch(config: EngineConfig, server: ServerConfig) -> int:
    """Serves until a signal; returns the exit code. Raises OctavoError for what the user can put right."""
    began = time.monotonic()
    gc.disable()  # nothing of the start is garbage: 20 ms; app.py switches it on again
    engine = EngineProcess()
    try:
        return _launch(config, server, engine, began)
    finally:
        engine.kill()


def _launch(config: EngineConfig, server: ServerConfig, engine: EngineProcess, began: float) -> int:
    # Each import where its time is due; see above.
    from octavo.engine.start import prepare
    from octavo.server.listener import Listener

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    # Let Ctrl-C interrupt a download as in any program.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A connection is a descriptor; the usual limit of 1,024 is what would refuse clients first.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = Listener(server)
    try:
        prepared = prepare(config)
        engine.begin(prepared.start)
        if config.backend == "model":
            print(prepared.start.memory.describe(), flush=True)

        import uvloop

        from octavo.server.app import open_texts, serve

        texts = open_texts(prepared, server)
        return uvloop.run(serve(prepared, engine, server, listener, texts, began))
    finally:
        listener.close()
