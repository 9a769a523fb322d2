"""The claims of the papers, one a file, a folder a paper: read a file beside the PDF."""
