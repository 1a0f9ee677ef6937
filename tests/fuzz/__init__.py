"""A campaign of damaged and forged inputs against every reader of what strangers give: `make fuzz`.

`mutations` damages bytes and values, `entries` makes the inputs of each entry point and runs its real reader on them,
`campaign` runs each input in a process of its own within limits, and `__main__` is the command line.
"""
