"""One run of a generation under a guidance, on any engine: no engine's own library is needed."""
