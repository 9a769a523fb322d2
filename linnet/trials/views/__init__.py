"""What a claim reads: instances of the larger settings in the symbols of the papers, in either arithmetic."""
