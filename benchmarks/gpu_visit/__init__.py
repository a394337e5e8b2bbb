"""A visit to a machine with a GPU: all that is worth measuring there, in one command.

Such a machine is seen rarely, for minutes, and may have nothing but a driver, Python and torch. So
what it lacks is packed beforehand (`pack`), and a visit unpacks it (`unpack`) and takes its steps
(`steps`), each a process with a time limit. What a step finds is written down at once (`results`)
and reported at the end (`report`).
"""
