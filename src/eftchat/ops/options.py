"""What options of several commands have in common."""

from __future__ import annotations

import click
from click.core import ParameterSource


def no_password(context: click.Context, parameter: click.Parameter, uri: str | None) -> str | None:
    """Refuses a URI with a password on the command line, which everyone on the machine can read."""
    shown = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    if uri and shown and "@" in uri.partition("://")[2].partition("/")[0]:
        variable = f"{context.auto_envvar_prefix}_{parameter.name}".upper()
        raise click.BadParameter(f"everyone here can read a password in a command line: use {variable}")
    return uri
