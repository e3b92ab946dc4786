"""`migrate` and `openapi`."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import asyncio

from gateway.cli.options import Common, with_common
from gateway.cli.output import print_json


@with_common
def migrate(common: Common) -> None:
    """Bring the database's schema up to date; harmless if it is. PostgreSQL needs it."""
    from gateway.runtime import DATABASE_FILE, make_private_folder
    from gateway.storage.migrate import current_revision, head_revision, upgrade

    config = common.load()
    path = config.data_dir / DATABASE_FILE
    make_private_folder(config.data_dir)

    async def act() -> str | None:
        before = await current_revision(config.storage, path)
        await upgrade(config.storage, path)
        return before

    before, after = asyncio.run(act()), head_revision()
    if common.is_json:
        print_json({"from": before, "to": after})
    else:
        print(f"{before or 'empty'} -> {after}")


@with_common
def openapi(common: Common) -> None:
    """Print the OpenAPI document of the public listener."""
    del common  # it is JSON in every format
    from gateway.http.openapi import render_document

    print(render_document().decode())
