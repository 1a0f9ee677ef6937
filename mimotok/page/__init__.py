"""The page that runs the codec in a browser: its files, the graphs and the runtime put together, and a server."""
