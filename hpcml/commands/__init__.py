"""The commands of ``hpcml``, one module each: ``HELP``, ``add_arguments(parser)`` and ``run(args) ->
status``.

A module is imported when its command is asked for, or when the list of commands is printed; so it imports
numba, MPI and the parts that need them within `run` only.
"""
