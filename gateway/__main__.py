"""`python -m gateway`, and the command `seedance-gateway`."""

import gc
import os
import sys


def main() -> int:
    """Run the command line.

    Half of a short command's time is loading code, so what makes that slower waits: collecting
    garbage, of which loading makes none, and looking through every installed package for plugins
    of pydantic. Commands that stay collect again.
    """
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from gateway.cli.main import main as run  # noqa: PLC0415 - after the settings above

    exit_code = run()
    gc.freeze()  # the end of the process frees everything at once
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
