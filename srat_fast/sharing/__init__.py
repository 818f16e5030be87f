"""Ready models from runs and files (`load`), and files for other programs (`export`)."""
