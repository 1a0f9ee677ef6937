"""Reports of a measurement: figures, tables, pictures and a page to listen to."""
