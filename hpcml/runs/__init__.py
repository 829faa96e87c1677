"""What a run leaves behind and shows while it goes on: its directory, metrics, progress and plot."""
