"""Speak texts and scripts, keep voices, serve, and find out what is wrong.

Exit codes: 0 done; 1 the server failed, the request was cancelled, or doctor found something
broken; 2 wrong usage, an invalid request or a wrong setting; 3 no server; 4 overloaded or out of
time, worth another try; 130 interrupted, 141 the reader of the output has left.
"""

import typer

from voicereel.cli import capacity, doctor, machine, speak, voice
from voicereel.cli.ending import Commands
from voicereel.cli.texts import TextCommand

app = typer.Typer(cls=Commands, help=__doc__, no_args_is_help=True)
app.command(cls=TextCommand)(speak.say)
app.command()(speak.script)
app.add_typer(voice.app, name="voice")
app.command()(machine.ready)
app.command()(doctor.doctor)
app.command()(machine.settings)
app.command()(capacity.capacity)
app.command(context_settings=machine.PASSED_ON)(machine.serve)
app.command(context_settings=machine.PASSED_ON)(machine.gateway)
app.command(context_settings=machine.PASSED_ON)(machine.bench)
