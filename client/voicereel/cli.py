"""The command line: say a text or a script, keep voices, serve, and see what is wrong.

Exit codes: 0 done; 1 the server failed, the request was cancelled, or doctor found something
broken; 2 usage, an invalid request or a wrong setting; 3 no server; 4 overloaded or out of time,
worth another try; 130 interrupted.
"""

import typer

from voicereel import cli_machine, cli_speak, cli_voice

app = typer.Typer(help=__doc__, no_args_is_help=True)
app.command()(cli_speak.say)
app.command()(cli_speak.script)
app.add_typer(cli_voice.app, name="voice")
app.command()(cli_machine.ready)
app.command()(cli_machine.doctor)
app.command()(cli_machine.settings)
app.command(context_settings=cli_machine.PASSED_ON)(cli_machine.serve)
app.command(context_settings=cli_machine.PASSED_ON)(cli_machine.bench)
