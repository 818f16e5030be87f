"""Sharing: a run or a file becomes a ready model (`load`), a run becomes files for other programs (`export`)."""
