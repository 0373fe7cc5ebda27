"""The `trifold` console command."""
