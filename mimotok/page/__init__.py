"""The page that runs the codec in a browser: its static files, the graphs and the runtime put together, and a server."""
