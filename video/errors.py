"""What is raised for bad input of the video head."""


class VideoError(ValueError):
    """A file, folder or setting that cannot be used; the message names it, what was found and what was expected."""
