"""The command line: say a text or a script, keep voices, serve, and see what is wrong.

Exit codes: 0 done; 1 the server failed, the request was cancelled, or doctor found something
broken; 2 usage, an invalid request or a wrong setting; 3 no server; 4 overloaded or out of time,
worth another try; 130 interrupted.
"""

import typer

from voicereel.cli import machine, speak, voice

app = typer.Typer(help=__doc__, no_args_is_help=True)
app.command()(speak.say)
app.command()(speak.script)
app.add_typer(voice.app, name="voice")
app.command()(machine.ready)
app.command()(machine.doctor)
app.command()(machine.settings)
app.command(context_settings=machine.PASSED_ON)(machine.serve)
app.command(context_settings=machine.PASSED_ON)(machine.bench)
