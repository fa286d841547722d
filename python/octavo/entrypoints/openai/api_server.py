"""`python -m octavo.entrypoints.openai.api_server`, as vLLM's users start the server: `octavo serve`."""

import sys

from octavo.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
