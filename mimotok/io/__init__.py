"""Files in and out.

`audio` reads and writes sound, `codes_file` codes, `manifest` lines of JSON, and `clips` the recordings that they list.
`files`, `folders`, `remote`, `json_object` and `npz` are what these stand on; `sound` and `codes` hold the formats
behind the first two, and `terminal` what a command shows.
"""
