"""What `mimotok.io.audio` knows about sound files beyond libsndfile: containers, lengths, levels, streams of wav."""
