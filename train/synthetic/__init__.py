"""Generated videos: textures, the renderer, the labelled actions of the demonstration and unlabelled motion."""
