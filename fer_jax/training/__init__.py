"""One run: settings and images in, a finished run folder out."""
