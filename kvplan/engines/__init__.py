"""What an engine really allocates for a cache, and what it keeps back. One module per engine, each naming its version."""
