"""What a run leaves behind: lines, an errors file, and the sidecar that says how far both are safe."""
