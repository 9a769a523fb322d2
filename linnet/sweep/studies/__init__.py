"""Studies that linnet brings along, one a file; a new file in this folder is a new study, known by its name."""
